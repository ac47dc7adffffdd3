"""Writes what a type checker sees: modules with the methods that `@patch` adds inside of their classes

A class of ours begins small and grows by `@patch`, each method beside what it demonstrates. Python puts them together when it imports the
module; mypy, pyright and editors do not run it, and would say that there is no `Run.plot`. So the wheel holds, beside each such module, a
`.pyi` file with the same text in another order. `tests/test_types.py` checks our own code in that form too.
"""
import ast
from pathlib import Path


def patch_of(node):
    "The `@patch` above a function and its arguments, or None"
    for o in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
        if isinstance(o, ast.Name) and o.id == 'patch': return o, {}
        if isinstance(o, ast.Call) and isinstance(o.func, ast.Name) and o.func.id == 'patch': return o, {k.arg for k in o.keywords}

def joined(folder):
    "Module -> its source, for the modules that change when each method is written in its class"
    trees = {o.stem: ast.parse(o.read_text(encoding='utf-8')) for o in sorted(Path(folder).glob('*.py'))}
    homes = {c.name: (name, c) for name, tree in trees.items() for c in tree.body if isinstance(c, ast.ClassDef)}
    changed, filled = set(), set()
    for name, tree in trees.items():
        for node in ast.walk(tree):                          # a checker knows no `delegates`, and would know nothing of the function then
            kept = [o for o in getattr(node, 'decorator_list', []) if not (isinstance(o, ast.Call) and getattr(o.func, 'id', '') == 'delegates')]
            if len(kept) < len(getattr(node, 'decorator_list', [])): node.decorator_list, changed = kept, changed | {name}
        imports = [o for o in tree.body if isinstance(o, (ast.Import, ast.ImportFrom))]
        for node in [o for o in tree.body if patch_of(o)]:
            mark, how = patch_of(node)
            home, owner = homes[node.args.args[0].annotation.id]
            node.args.args[0].annotation = None
            node.decorator_list.remove(mark)
            kinds = dict(cls_method=ast.Name('classmethod'), as_prop=ast.Name('property'), set_prop=ast.Attribute(ast.Name(node.name), 'setter'))
            node.decorator_list[:0] = [v for k, v in kinds.items() if k in how]
            tree.body.remove(node)
            owner.body.append(node)
            if home != name and (home, name) not in filled: trees[home].body[1:1] = [o for o in imports if getattr(o, 'module', None) != home]
            changed, filled = changed | {name, home}, filled | {(home, name)}
    return {o: ast.unparse(ast.fix_missing_locations(trees[o])) + '\n' for o in sorted(changed)}

def write_stubs(folder, out):
    "Write a `.pyi` file into `out` for each module of `folder` that needs one"
    for name, source in joined(folder).items(): (Path(out)/f'{name}.pyi').write_text(source, encoding='utf-8')
