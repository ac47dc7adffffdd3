"""---
title: Benchmarks
description: What was measured, on which machine, and the command that measures it again
---"""
# Written when the site is built, from the file that is kept beside the benchmarks
import re
from nbdev.config import get_config

text = (get_config().config_path/'tests'/'benchmarks'/'README.md').read_text()
print(re.sub(r'\A# .*\n', '', text))
