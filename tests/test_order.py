"""Two workers share the tests, and what is costly to set up is set up once"""
import os, subprocess, sys

import conftest
from notebooks import ROOT

SHARED = """
import os, pytest
from pathlib import Path

@pytest.fixture(scope='module')
def costly():
    with Path('workers').open('a') as f: f.write(os.environ['PYTEST_XDIST_WORKER'] + '\\n')

@pytest.mark.parametrize('n', range(4))
def test_shares(costly, n): pass
"""

def test_the_tests_of_a_file_share_their_fixtures(tmp_path):
    for o in ('test_one.py', 'test_two.py'): (tmp_path/o).write_text(SHARED)
    command = [sys.executable, '-m', 'pytest', '-c', ROOT/'pytest.ini', '--rootdir', tmp_path, '-p', 'conftest', '-p', 'no:cacheprovider', tmp_path]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {'PYTHONPATH': str(ROOT/'tests')}, capture_output=True, text=True)
    assert done.returncode == 0 and '8 passed' in done.stdout, done.stdout + done.stderr
    assert sorted((tmp_path/'workers').read_text().split()) == ['gw0', 'gw1']

def test_long_tests_start_first():
    "Every name in the order is one of a test that there is"
    files = {o.stem for o in (ROOT/'tests').glob('test_*.py')}
    assert set(conftest.LONG) | set(conftest.IN_JUPYTERLAB) <= files
    assert all((ROOT/'nbs'/f'{o}.ipynb').is_file() for o in conftest.LONG_NOTEBOOKS)
    ids = ['tests/test_options.py::test_a', 'tests/test_notebooks.py::test_runs[nbs/core.ipynb]', 'tests/test_notebooks.py::test_runs[nbs/auto.ipynb]',
           'tests/test_train.py::test_a']
    assert sorted(ids, key=conftest.start) == ids[::-1]
