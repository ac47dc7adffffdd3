"""What mypy says: of a person's script, with all its rules, and of our own code, in the form in which methods stand in their classes"""
import re, shutil, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from stubs import joined, write_stubs

pytestmark = pytest.mark.xdist_group('types')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "The package as mypy reads it when it is installed"
    top = tmp_path_factory.mktemp('types')
    shutil.copytree(ROOT/'automode', top/'automode', ignore=shutil.ignore_patterns('__pycache__', 'data'))
    write_stubs(top/'automode', top/'automode')
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
    for name, source in joined(ROOT/'automode').items(): (tmp_path/'automode'/f'{name}.py').write_text(source)
    shutil.copy(ROOT/'pyproject.toml', tmp_path)
    assert mypy(tmp_path, '-p', 'automode') == []

def test_a_script_of_a_person(place):
    script = place/'typed_user.py'
    shutil.copy(ROOT/'tests'/'typed_user.py', script)
    strict = '--config-file', str(place/'strict.ini'), '--strict', 'typed_user.py'
    skipped = re.search(r'module = \[(.*)\]', (ROOT/'pyproject.toml').read_text())[1].replace('"', '').replace(' ', '')
    (place/'strict.ini').write_text(f'[mypy]\nignore_missing_imports = true\n[mypy-{skipped}]\nfollow_imports = skip\n[mypy-automode.*]\nignore_errors = true\n')
    assert not mypy(place, *strict)
    script.write_text(script.read_text() + "run.plod()\nrun.plot(smooth='much')\ngenerate(3)\nwatch(prompt='a fox')\nreveal_type(run)\n")
    said = '\n'.join(mypy(place, *strict))
    assert all(o in said for o in ('"Run" has no attribute "plod"', '"smooth" to "plot" of "Run" has incompatible type "str"',
        'Argument 1 to "generate" has incompatible type "int"', 'Unexpected keyword argument "prompt"', 'Revealed type is "automode.run.Run"')), said

def test_the_stubs_say_what_the_modules_say():
    sources = {o.stem: o.read_text() for o in (ROOT/'automode').glob('*.py')}
    count = lambda texts: sum(len(re.findall(r'^\s*def ', o, re.M)) for o in texts)
    found = joined(ROOT/'automode')
    assert {'run', 'dataset', 'review', 'step', 'train'} <= set(found) and '@patch' not in ''.join(found.values())
    assert count(found.values()) == count(sources[o] for o in found)
