"""---
title: Options
description: The values that each setting accepts, from the registries that check them
---"""
# Generated when the site is built, from the same registries that check the settings and produce `--help`
from automode.options import SETTINGS

print("""Each of these settings of `automode train` and `automode run` has a registry in `automode.options`, with one entry per value. Names are
case-insensitive and may use hyphens or underscores. To add a value, add an entry to its registry.""")

for setting, options in SETTINGS.items():
    print(f"\n## {setting} {{#{setting}}}\n\n| value | description | needs |\n|---|---|---|")
    for name, o in options.items(): print(f"| `{name}` | {o.help} | {f'`pip install {o.needs}`' if o.needs else ''} |")
    excluded = [f'- `{name}`: {other} must be {" or ".join(map(str, allowed))}' for name, o in options.items() for other, allowed in o.allows.items()]
    if excluded: print('\nWith these, other settings are limited:\n\n' + '\n'.join(excluded))
