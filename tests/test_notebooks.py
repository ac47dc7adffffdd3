"""The notebooks run from top to bottom, and what is generated from them, or stored in them, is in step"""
import re, shutil, subprocess, sys, sysconfig
from pathlib import Path

import nbformat, pytest

import notebooks
from warm import warm

ROOT = notebooks.ROOT

def nbdev(command, *args, cwd=ROOT):
    "Run one of nbdev's commands in a process of its own; what it printed, or an `AssertionError` with that"
    script = Path(sysconfig.get_path('scripts'))/command
    done = subprocess.run([script, *args], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize('path', notebooks.notebooks(), ids=notebooks.name)
def test_runs(path, tmp_path):
    status, shown = warm.notebook(path, tmp_path/'log'), (tmp_path/'log').read_text()
    assert status == 0 and shown.count('- Completed') == 1, shown


@pytest.fixture(scope='module')
def again(tmp_path_factory):
    "A copy of the project in which the notebooks were cleaned and the modules exported once more"
    folder = tmp_path_factory.mktemp('again')
    for o in ('settings.ini', 'pyproject.toml', 'README.md'): shutil.copy(ROOT/o, folder)
    shutil.copytree(ROOT/'nbs', folder/'nbs', ignore=shutil.ignore_patterns('_*', '.*'))
    shutil.copytree(ROOT/'automode', folder/'automode', ignore=lambda d, names: [o for o in names if o in ('assets', '__pycache__')])
    nbdev('nbdev_clean', cwd=folder)
    nbdev('nbdev_export', cwd=folder)
    return folder

def changed(folder, pattern):
    "The files that are not the same in the project and in `folder`"
    here, there = [{o.relative_to(top) for o in top.glob(pattern) if not any(p[0] in '._' and p[:2] != '__' and p != '_modidx.py'
                    for p in o.relative_to(top).parts)} for top in (ROOT, folder)]
    return sorted(str(o) for o in here | there if o not in here & there or (ROOT/o).read_bytes() != (folder/o).read_bytes())

def test_clean(again): assert not changed(again, 'nbs/**/*.ipynb'), '`nbdev_clean` was not run'

def test_exported(again): assert not changed(again, 'automode/**/*.py'), '`nbdev_export` was not run, or a module was changed'


def test_outputs_and_readme_are_fresh():
    found = notebooks.check()
    assert not found, '\n'.join(['`python tests/notebooks.py` mends these:'] + found)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    "A project of one notebook, which prints, draws and skips"
    monkeypatch.setattr(notebooks, 'ROOT', tmp_path)
    monkeypatch.setattr(notebooks, 'NBS', tmp_path/'nbs')
    monkeypatch.setattr(notebooks, 'IMAGES', tmp_path/'nbs'/'images')
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT/'settings.ini', tmp_path)
    (tmp_path/'nbs').mkdir()
    new = nbformat.v4
    cells = [new.new_markdown_cell('# tiny\n\n> One line\n\n- skip_showdoc: true'), new.new_markdown_cell('See [core](core.ipynb), [us](../LICENSE).'),
             new.new_code_cell('#| hide\n1 + 1'), new.new_code_cell("print('seen')"), new.new_code_cell('#| slow\nraise ValueError'),
             new.new_code_cell("from PIL import Image\nImage.new('RGB', (8, 8), 'red')"), new.new_code_cell('! automode --help')]
    cells[4].outputs = [new.new_output('stream', text='kept from a long run')]
    cells[6].source = '#| eval: false\n!automode --help'
    path = tmp_path/'nbs'/'index.ipynb'
    nbformat.write(new.new_notebook(cells=cells), path)
    return path

def edit(path, change):
    "Rewrite the notebook at `path` after `change(nb)`"
    nb = notebooks.read(path)
    change(nb)
    nbformat.write(nb, path)

def test_execute_stamps_and_repeats(scratch):
    assert notebooks.problems(scratch) == ['was never run in place']
    notebooks.execute(scratch)
    first = scratch.read_bytes()
    assert not notebooks.problems(scratch)
    assert [o.outputs[0].text for o in notebooks.code_cells(notebooks.read(scratch))[1:3]] == ['seen\n', 'kept from a long run']
    notebooks.execute(scratch)
    assert scratch.read_bytes() == first

@pytest.mark.parametrize('change, message', [
    (lambda nb: nb.cells[3].update(source="print('changed')"), 'outputs of other code'),
    (lambda nb: nb.cells[3].update(outputs=[]), 'shows 3 outputs, and had 4'),
    (lambda nb: nb.cells[3].outputs[0].update(text=f'saved to {Path.home()}/x'), 'a path of this machine in cell 3'),
    (lambda nb: nb.cells[3].outputs[0].update(text='saved to /tmp/a8f3/x'), 'a path of this machine in cell 3: /tmp/a8f3'),
    (lambda nb: nb.cells[3].update(outputs=[nbformat.v4.new_output('error', ename='KeyError')]), 'an error in cell 3: KeyError'),
    (lambda nb: nb.cells[3].outputs[0].update(text='long ' * 70_000), 'kB; 300 is the most'),
])
def test_check_names_the_problem(scratch, change, message):
    notebooks.execute(scratch)
    edit(scratch, change)
    found = notebooks.problems(scratch)
    assert len(found) == 1 and message in found[0], found

def test_a_failing_notebook_stays_as_it_was(scratch):
    edit(scratch, lambda nb: nb.cells[3].update(source='1/0'))
    before = scratch.read_bytes()
    with pytest.raises(SystemExit, match='ZeroDivisionError'): notebooks.execute(scratch)
    assert scratch.read_bytes() == before

def test_an_address_is_not_a_path(): assert not notebooks.machine_paths('see https://example.org/home/me and a/tmp/b, ~/x')

def test_readme_is_plain_and_whole(scratch):
    notebooks.execute(scratch)
    (scratch.parent/'images').mkdir()
    (scratch.parent/'images'/'index_99_0.png').write_bytes(b'left over')
    notebooks.readme()
    text = Path('README.md').read_text()
    assert not notebooks.stale_readme()
    assert [o.name for o in (scratch.parent/'images').iterdir()] == ['index_05_0.png']
    assert '![What the cell above draws](nbs/images/index_05_0.png)' in text
    assert '[core](nbs/core.ipynb), [us](LICENSE)' in text
    assert "```python\nprint('seen')\n```\n\n```\nseen\n```" in text
    assert '```bash\nautomode --help\n```' in text
    assert not any(o in text for o in ('1 + 1', 'skip_showdoc', '#|'))

def test_readme_links_lead_somewhere():
    found = [o for o in re.findall(r'\]\(([^)#\s]+)', (notebooks.ROOT/'README.md').read_text()) if '://' not in o]
    assert len(found) > 3 and not [o for o in found if not (notebooks.ROOT/o).exists()]
