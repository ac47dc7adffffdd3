"""---
title: Benchmarks
description: Measurements, the machine they were made on, and the command that repeats each one
---"""
# Generated when the site is built, from the file that is stored next to the benchmarks
import re
from nbdev.config import get_config

text = (get_config().config_path/'tests'/'benchmarks'/'README.md').read_text()
print(re.sub(r'\A# .*\n', '', text))
