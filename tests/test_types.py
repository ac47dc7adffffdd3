"""What mypy says: of a person's script, with all its rules, and of our own code, in the form in which methods stand in their classes"""
import ast, importlib.util, shutil, subprocess, sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11): import tomllib
else: import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location('setup_of_automode', ROOT/'setup.py')      # there it is used to build; imported, it only defines
setup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup)



@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "The package as mypy reads it when it is installed"
    top = tmp_path_factory.mktemp('types')
    shutil.copytree(ROOT/'automode', top/'automode', ignore=shutil.ignore_patterns('__pycache__', 'assets'))
    for name, text in setup.typed_files(ROOT/'automode').items(): (top/'automode'/name).write_text(text)
    shutil.copy(ROOT/'pyproject.toml', top)
    return top

def mypy(place, *args):
    "What mypy says, line by line"
    done = subprocess.run([sys.executable, '-m', 'mypy', '--no-error-summary', '--no-color-output', '--cache-dir', str(place/'cache'), *args],
                          cwd=place, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()

def test_our_own_code(place, tmp_path):
    shutil.copytree(place/'automode', tmp_path/'automode', ignore=shutil.ignore_patterns('*.pyi'))
    for name, source in setup.joined(ROOT/'automode').items(): (tmp_path/'automode'/f'{name}.py').write_text(source)
    shutil.copy(ROOT/'pyproject.toml', tmp_path)
    assert mypy(tmp_path, '-p', 'automode') == []

def test_a_script_of_a_person(place):
    script = place/'typed_user.py'
    shutil.copy(ROOT/'tests'/'typed_user.py', script)
    strict = '--config-file', str(place/'strict.ini'), '--strict', 'typed_user.py'
    rules = tomllib.loads((ROOT/'pyproject.toml').read_text())['tool']['mypy']['overrides']
    skipped = next(o['module'] for o in rules if o.get('follow_imports') == 'skip')
    (place/'strict.ini').write_text(f'[mypy]\nignore_missing_imports = true\n[mypy-{",".join(skipped)}]\nfollow_imports = skip\n[mypy-automode.*]\nignore_errors = true\n')
    assert not mypy(place, *strict)
    script.write_text(script.read_text() + "run.plod()\nrun.plot(smooth='much')\ngenerate(3)\nwatch(prompt='a fox')\nreveal_type(run)\n")
    said = '\n'.join(mypy(place, *strict))
    assert all(o in said for o in ('"Run" has no attribute "plod"', '"smooth" to "plot" of "Run" has incompatible type "str"',
        'Argument 1 to "generate" has incompatible type "int"', 'Unexpected keyword argument "prompt"', 'Revealed type is "automode.run.Run"')), said

def functions(sources):
    "(class or '', name) of every function in modules, with `@patch` in the class that its first argument names"
    found = []
    for tree in map(ast.parse, sources):
        for node in tree.body:
            if isinstance(node, ast.ClassDef): found += [(node.name, o.name) for o in node.body if isinstance(o, ast.FunctionDef)]
            if not isinstance(node, ast.FunctionDef): continue
            patched = any('patch' == getattr(getattr(o, 'func', o), 'id', '') for o in node.decorator_list)
            found.append((node.args.args[0].annotation.id if patched else '', node.name))
    return sorted(found)

def test_the_stubs_say_what_the_modules_say():
    sources = {o.relative_to(ROOT/'automode').with_suffix('').as_posix(): o.read_text() for o in (ROOT/'automode').rglob('*.py')}
    found = setup.joined(ROOT/'automode')
    assert {'run', 'data/dataset', 'captions/review', 'training/step', 'train'} <= set(found) and '@patch' not in ''.join(found.values())
    names = lambda texts: sorted(o.name for text in texts for o in ast.walk(ast.parse(text)) if isinstance(o, ast.FunctionDef))
    assert names(found.values()) == names(sources[o] for o in found)
    methods = functions(found.values())
    assert methods == functions(sources[o] for o in found)
    assert {('Run', 'plot'), ('Dataset', 'read'), ('Trainer', 'step')} <= set(methods)
