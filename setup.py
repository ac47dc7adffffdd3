"""Builds the package from `settings.ini`; change things there, not here

A class of ours starts small and grows by `@patch` in the notebook that defines it, each method next to its example. Python puts them together
when it imports the module; mypy, pyright and editors do not run it, and would say that there is no `Run.plot`. So the wheel holds, beside each such module, a
`.pyi` file with the same text in another order, and `py.typed`, which says that its types can be relied on. An editable install has neither.
`tests/test_types.py` checks our own code in that form too.
"""
import ast, re, shlex
from configparser import ConfigParser
from pathlib import Path

import setuptools
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
config = ConfigParser(delimiters=['='])
config.read(ROOT/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
LIB = cfg['lib_path']
STATUSES = ['0 - Pre-Planning', '1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable', '6 - Mature', '7 - Inactive']
PYTHONS = '3.10 3.11 3.12 3.13 3.14'.split()


def patch_of(node):
    "The `@patch` above a function and its arguments, or None"
    for o in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
        if isinstance(o, ast.Name) and o.id == 'patch': return o, {}
        if isinstance(o, ast.Call) and isinstance(o.func, ast.Name) and o.func.id == 'patch': return o, {k.arg for k in o.keywords}

def joined(folder):
    "Path of a module without suffix -> its source, for the modules that change when each method is written in its class"
    changed = {}
    for path in sorted(Path(folder).rglob('*.py')):
        tree, before = ast.parse(path.read_text(encoding='utf-8')), ast.dump(ast.parse(path.read_text(encoding='utf-8')))
        for node in ast.walk(tree):                          # a checker knows no `delegates`, and would know nothing of the function then
            if not isinstance(node, ast.FunctionDef): continue
            node.decorator_list = [o for o in node.decorator_list if not (isinstance(o, ast.Call) and getattr(o.func, 'id', '') == 'delegates')]
        classes = {o.name: o for o in tree.body if isinstance(o, ast.ClassDef)}
        for node in [o for o in tree.body if patch_of(o)]: _join(node, tree, classes)
        if ast.dump(tree) != before: changed[path.relative_to(folder).with_suffix('').as_posix()] = ast.unparse(ast.fix_missing_locations(tree)) + '\n'
    return changed

def _join(node, tree, classes):
    "Move a function with `@patch` into its class, which the same module defines"
    mark, how = patch_of(node)
    owner = classes[node.args.args[0].annotation.id]
    node.args.args[0].annotation = None
    node.decorator_list.remove(mark)
    kinds = dict(cls_method=ast.Name('classmethod'), as_prop=ast.Name('property'), set_prop=ast.Attribute(ast.Name(node.name), 'setter'))
    node.decorator_list[:0] = [v for k, v in kinds.items() if k in how]
    tree.body.remove(node)
    owner.body.append(node)

def typed_files(folder):
    "What lies beside the modules of `folder` for a type checker: name -> text"
    return {'py.typed': ''} | {f'{name}.pyi': source for name, source in joined(folder).items()}

class BuildTyped(build_py):
    "Puts what a type checker reads into what is built"
    def run(self):
        super().run()
        for name, text in () if self.editable_mode else typed_files(ROOT/LIB).items(): (Path(self.build_lib)/LIB/name).write_text(text, encoding='utf-8')

    def get_outputs(self, include_bytecode=1):
        return super().get_outputs(include_bytecode) + [str(Path(self.build_lib)/LIB/o) for o in typed_files(ROOT/LIB)]


def long_description():
    "README.md, with the addresses of its pictures written out, as they are looked for from a package's page"
    raw = f"{cfg['git_url']}/raw/{cfg['branch']}/"
    return re.sub(r'(!\[[^\]]*\]\()(?!https?:)', r'\1' + raw, (ROOT/'README.md').read_text(encoding='utf-8'))

def main():
    assets = [o for o in setuptools.find_namespace_packages(include=[LIB + '.*']) if o.startswith(LIB + '.assets')]  # setuptools warns of folders that are no package
    setuptools.setup(
        name=cfg['lib_name'],
        **{o: cfg[o] for o in 'version description keywords author'.split()},
        license='Apache-2.0',
        license_files=['LICENSE'],
        url=cfg['git_url'],
        project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl']},
        classifiers=['Development Status :: ' + STATUSES[int(cfg['status'])],
                     'Intended Audience :: ' + cfg['audience'],
                     'Natural Language :: ' + cfg['language']] +
                    ['Programming Language :: Python :: ' + o for o in PYTHONS[PYTHONS.index(cfg['min_python']):]],
        python_requires='>=' + cfg['min_python'],
        packages=setuptools.find_packages(include=[LIB, LIB + '.*']) + assets,
        package_data=dict.fromkeys(assets, ['*']),
        cmdclass={'build_py': BuildTyped},
        install_requires=shlex.split(cfg['requirements']),
        extras_require={k.removesuffix('_requirements'): shlex.split(v) for k, v in cfg.items() if k.endswith('_requirements')},
        entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{LIB}={LIB}._modidx:d']},
        long_description=long_description(),
        long_description_content_type='text/markdown',
        zip_safe=False,
    )


if __name__ == '__main__': main()
