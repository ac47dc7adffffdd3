"""---
title: Commands
description: Every command and its flags, as the commands themselves tell them
---"""
# Written when the site is built, by the parsers themselves, so that no flag is missing and none is left over
from automode.cli import command_parser, commands

def in_table(text): return str(text).replace('|', '\\|').replace('<', '&lt;').replace('\n', ' ')

def flag_row(action):
    "One flag as a row of a table"
    name = ' '.join(filter(None, (action.option_strings[0] if action.option_strings else action.metavar, action.metavar * bool(
        action.option_strings and action.nargs != 0) if action.metavar else '')))
    return f"| `{name}` | {in_table(action.help or '').replace('%%', '%')} |"

print('''Flags may be written with `-` or `_`. A flag that is not there is an error, and the nearest one is named.
Every command ends with 0 when it is done, 1 when there is a problem to mend, 2 when the command itself was mistaken, and 130 when it was stopped with Ctrl-C.

| command | what it does |
|---|---|''')
for name, (function, *_) in commands.items(): print(f'| [`{name}`](#{name}) | {in_table(function.__doc__)} |')

for name, (function, example, stopped, settings) in commands.items():
    parser = command_parser(name)
    print(f'\n## {name} {{#{name}}}\n\n{function.__doc__}.\n\n```bash')
    print('\n'.join(o.strip() for o in example.splitlines()) + '\n```\n')
    own = [o for g in parser._action_groups if g.title != 'settings' for o in g._group_actions if o.dest != 'help']
    print('| flag | what it means |\n|---|---|\n' + '\n'.join(map(flag_row, own)))
    if settings: print('\nAnd all of the [settings of a training run](#settings).')
    print(f'\nStopped with Ctrl-C: {stopped}.')

print('\n## Settings of a training run {#settings}\n\nFlags of `train` and `run`; in Python, arguments of `train` with the same names. What is left open is chosen when the run begins, and kept in its `config.json`.\n')
group = next(o for o in command_parser('train')._action_groups if o.title == 'settings')
print('| flag | what it means |\n|---|---|\n' + '\n'.join(map(flag_row, group._group_actions)))
