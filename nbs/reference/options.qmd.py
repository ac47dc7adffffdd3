"""---
title: Options
description: The values that each setting accepts, from the registries that check them
---"""
# Generated when the site is built, from the same registries that check the settings and produce `--help`
from automode.captioners.options import CAPTION_OPTIONS
from automode.captioners.load import CAPTIONERS
from automode.models.family import FAMILIES
from automode.formats.base import formats
from automode.options import SETTINGS

print("""Each of these settings of `automode train` and `automode run` has a registry in `automode.options`, with one entry per value. Names are
case-insensitive and may use hyphens or underscores. To add a value, add an entry to its registry.""")

for setting, options in SETTINGS.items():
    print(f'\n## {setting} {{#{setting}}}\n\n{options._repr_markdown_()}')
    excluded = [f'- `{name}`: {other} must be {" or ".join(map(str, allowed))}' for name, o in options.items() for other, allowed in o.allows.items()]
    if excluded: print('\nWith these, other settings are limited:\n\n' + '\n'.join(excluded))

print("""\n## captioner {#captioner}\n
`automode caption --captioner` recognizes a model by its config.json. Its options are checked before it is loaded. To add a captioner, add an entry to `CAPTIONERS` in `automode.captioners.load`;
to add an option, add one to `CAPTION_OPTIONS` in `automode.captioners.options`.\n\n| captioner | what it is | options that not every captioner takes |\n|---|---|---|""")
for name, o in CAPTIONERS.items(): print(f"| `{name}` | {o.help} | {', '.join(f'`{k}`' for k in o.takes)} |")
print('\n| option | what it is | must be |\n|---|---|---|')
for name, o in CAPTION_OPTIONS.items(): print(f'| `{name}` | {o.help} | {o.rule} |')

print("""\n## Dataset formats {#formats}\n
These are the values of `automode convert --from` and `--to`, from the registry `formats` in `automode.formats.base`. A format without "loses" is read-only. To add one, write its
reader, its writer and the function that recognizes it in one file, and add an entry.\n\n| format | what it is | loses |\n|---|---|---|""")
for name, o in formats.items(): print(f"| `{name}` | {o.help} | {o.loses if o.writer else ''} |")

print("""\n## Model families {#families}\n
The family of a base model is recognized by its pipeline class, or by the tensors of a single file. To add one, write a file with a `Family` and add an entry to `FAMILIES` in
`automode.models.family`; see [an example](../howto/extend.ipynb#a-model-family).\n\n| family | what it is |\n|---|---|""")
for name, o in FAMILIES.items(): print(f'| `{name}` | {o.help} |')
