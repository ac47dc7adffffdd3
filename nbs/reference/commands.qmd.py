"""---
title: Commands
description: Every command and its flags, generated from the commands' own help
---"""
# Generated from the parsers when the site is built, so that no flag is missing and none is left over
import re

from automode.cli.commands import command_parser, commands

def as_code(text): return re.sub(r"(?<![\w`-])(--\w+|'')", r'`\1`', str(text))              # else two dashes become one long one

def in_table(text): return as_code(text).replace('|', '\\|').replace('<', '&lt;').replace('\n', ' ')

def flag_row(action):
    "One flag as a row of a table"
    name = ' '.join(filter(None, (action.option_strings[0] if action.option_strings else action.metavar, action.metavar * bool(
        action.option_strings and action.nargs != 0) if action.metavar else '')))
    return f"| `{name}` | {in_table(action.help or '').replace('%%', '%')} |"

print('''Flags may be written with `-` or `_`. An unknown flag is an error; the message suggests the closest one.
Exit codes: 0 on success, 1 if there is a problem to fix, 2 for invalid usage, and 130 after Ctrl-C.

| command | what it does |
|---|---|''')
for name, command in commands.items(): print(f'| [`{name}`](#{name}) | {in_table(command.help)} |')

for name, command in commands.items():
    parser = command_parser(name)
    print(f'\n## {name} {{#{name}}}\n\n{command.help}.\n\n```bash')
    print('\n'.join(o.strip() for o in command.example.splitlines()) + '\n```\n')
    own = [o for g in parser._action_groups if g.title != 'settings' for o in g._group_actions if o.dest != 'help']
    print('| flag | description |\n|---|---|\n' + '\n'.join(map(flag_row, own)))
    if command.settings: print('\nAll [settings of a training run](#settings) are flags as well.')
    print(f'\nAfter Ctrl-C: {as_code(command.stopped)}.')

print('\n## Settings of a training run {#settings}\n\nFlags of `train` and `run`; in Python, arguments of `train` with the same names. Settings that you leave out are chosen when the run starts and stored in its `config.json`.\n')
group = next(o for o in command_parser('train')._action_groups if o.title == 'settings')
print('| flag | description |\n|---|---|\n' + '\n'.join(map(flag_row, group._group_actions)))
