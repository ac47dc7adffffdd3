"""The review widget as a person uses it: a real JupyterLab, a real browser, and what is on the disk afterwards"""
import json, os, shutil, socket, subprocess, sys, time, urllib.request

import nbformat, pytest

from automode.core import data_path
from automode.dataset import Dataset
from automode.review import Review
from automode.rows import new_row

CHROMIUM = next((o for o in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if o), None)
pytestmark = [pytest.mark.xdist_group('browser'),
              pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; install it, e.g. 'apt-get install chromium'")]
NAMES = 'cat fox apple tree rabbit fish house sun'.split()
HOSTILE = '<img src=x onerror="window.hacked = 1"> **bold** <script>window.hacked = 2</script>'

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A JupyterLab server: its folder and its address"
    folder = tmp_path_factory.mktemp('lab')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    places = 'CONFIG_DIR', 'DATA_DIR', 'RUNTIME_DIR'
    own = {f'JUPYTER_{o}': str(folder/'home'/o) for o in places} | {f'JUPYTERLAB_{o}_DIR': str(folder/'home'/o) for o in ('SETTINGS', 'WORKSPACES')}
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', '--ServerApp.token=t', '--ip=127.0.0.1',
               '--LabApp.news_url=None', f'--ServerApp.root_dir={folder}']
    process = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f'http://127.0.0.1:{port}'
    for _ in range(600):
        try: urllib.request.urlopen(f'{address}/api?token=t')
        except OSError: time.sleep(.1)
        else: break
    yield folder, address
    process.terminate()
    process.wait()

@pytest.fixture(scope='module')
def browser():
    "A browser without a window"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield chromium
        chromium.close()

def make_dataset(folder):
    "Drawings with captions and scores; one has none, one has a hostile one"
    folder.mkdir(parents=True)
    rows = []
    for n, path in enumerate(sorted(data_path('samples', 'style').glob('*.png'))):
        shutil.copy(path, folder)
        text = {3: '', 5: HOSTILE}.get(n, f'a drawing of a {NAMES[n % 8]} number {n}')
        rows.append(new_row(path.name, text) | dict(auto_text=text, score=None if n == 3 else -.1*n, status='auto'))
    Dataset(folder, rows).write()

def on_disk(folder): return {o['file_name']: o for o in map(json.loads, (folder/'metadata.jsonl').read_text().splitlines())}

class Person:
    "Somebody at the keyboard"
    def __init__(self, page, folder): self.page, self.folder = page, folder
    @property
    def at(self): return self.text('name').split(' · ')[0]
    def text(self, part): return self.page.inner_text(f'.amr-{part}')
    def row(self, name): return on_disk(self.folder)[name]
    def press(self, *keys):
        for o in keys: self.page.keyboard.press(o)
    def see(self, what, seconds=20):
        "Wait until something is so"
        end = time.time() + seconds
        while not what():
            assert time.time() < end, [self.text(o) for o in ('count', 'name', 'message')]
            self.page.wait_for_timeout(20)

@pytest.fixture
def person(lab, browser, request):
    "Somebody who has run the cell with the widget, in a page that must not complain"
    (folder, address), name = lab, request.node.name.split('@')[0]
    make_dataset(folder/name)
    nb = nbformat.v4.new_notebook(metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')))
    nb.cells = [nbformat.v4.new_code_cell('from automode.review_widget import review\n'
                                          f"review({name!r}, token='inky', count_tokens=lambda o: len(o.split()))")]
    nbformat.write(nb, folder/f'{name}.ipynb')
    page, complaints = browser.new_page(viewport=dict(width=1366, height=768)), []
    page.on('console', lambda o: complaints.append(o.text) if o.type == 'error' else None)
    page.on('pageerror', lambda o: complaints.append(str(o)))
    page.goto(f'{address}/lab/workspaces/{name}/tree/{name}.ipynb?token=t')
    page.wait_for_selector('.jp-Notebook .jp-Cell .cm-content', timeout=90_000)
    for _ in range(30):                                                                   # before the kernel is there, JupyterLab forgets what was asked
        page.click('.jp-Cell .cm-content')
        page.keyboard.press('Shift+Enter')
        page.wait_for_timeout(2000)
        if '[ ]' not in page.inner_text('.jp-Cell .jp-InputPrompt'): break
    page.wait_for_selector('.amr-thumb', timeout=90_000)
    page.focus('.amr')
    yield Person(page, folder/name)
    assert complaints == []
    if page.is_closed(): return
    assert page.evaluate('window.hacked') is None
    page.close()

def test_keys_do_what_they_say(person):
    cells = len(person.page.query_selector_all('.jp-Notebook .jp-Cell'))
    first = person.at
    person.press('e')
    person.page.keyboard.type('a drawing of a red axe, b and dd and x')                 # each of these is a shortcut of the notebook
    person.see(lambda: person.row(first)['text'] == 'a drawing of a red axe, b and dd and x')
    person.press('Control+Enter')
    person.see(lambda: person.row(first)['status'] == 'accepted' and person.at != first)
    person.press('Escape', 'j', 'j', 'k')
    person.see(lambda: person.text('count').startswith('3 of 24'))
    second = person.at
    person.press('x')
    person.see(lambda: person.row(second)['status'] == 'excluded')
    assert (person.folder/second).exists()
    person.press('u')
    person.see(lambda: person.row(second)['status'] == 'auto')
    person.press('r')
    person.see(lambda: person.row(second)['status'] == 'excluded')
    person.press('?')
    assert person.page.is_visible('.amr-keys')
    person.press('?', '/')
    person.page.keyboard.type('fish')
    person.see(lambda: person.text('count').startswith('1 of 2 (24 in all)'))
    assert len(person.page.query_selector_all('.jp-Notebook .jp-Cell')) == cells

def test_what_was_typed_stays_with_its_picture(person):
    name = person.at
    person.press('e')
    person.page.keyboard.type('typed in a hurry')
    person.press('Alt+ArrowDown', 'Alt+ArrowDown', 'Alt+ArrowDown')
    person.see(lambda: person.text('count').startswith('4 of 24') and person.row(name)['text'])
    assert [k for k, v in on_disk(person.folder).items() if v['text'] == 'typed in a hurry'] == [name]

def test_nothing_is_lost_with_the_page_and_the_kernel(person, lab):
    name, address = person.at, lab[1]
    person.press('e')
    person.page.keyboard.type('kept')
    person.see(lambda: person.row(name)['text'] == 'kept')
    for o in json.load(urllib.request.urlopen(f'{address}/api/kernels?token=t')):
        urllib.request.urlopen(urllib.request.Request(f'{address}/api/kernels/{o["id"]}?token=t', method='DELETE'))
    person.page.close()
    assert person.row(name)['text'] == 'kept'
    Review(person.folder).undo()                                                          # another session takes it back
    assert person.row(name)['text'] == ''

def test_captions_are_text(person):
    person.page.fill('.amr-search', 'onerror')
    person.see(lambda: person.text('count').startswith('1 of 1'))
    assert person.page.input_value('.amr-editor') == HOSTILE
    person.see(lambda: person.page.inner_text('.amr-line').startswith('<img src=x'))

def test_another_writer_is_noticed(person):
    name = person.at
    Review(person.folder).write(name, 'written elsewhere')
    person.see(lambda: person.page.input_value('.amr-editor') == 'written elsewhere')
    assert 'somebody else' in person.text('message')

def test_a_conflict_is_shown_and_decided(person):
    name = person.at
    person.press('e')
    person.page.keyboard.type('mine ')
    person.see(lambda: person.row(name)['text'] == 'mine')
    person.page.keyboard.type('too')                                                      # the blank typed before the pause is still there
    person.see(lambda: person.row(name)['text'] == 'mine too')
    assert not person.page.is_visible('.amr-clash')
    Review(person.folder).write(name, 'theirs')
    person.page.keyboard.type(', and more')
    person.see(lambda: 'yours was: mine too, and more' in person.text('clash'))
    assert person.row(name)['text'] == 'theirs'
    person.page.click('.amr-clash button')
    person.see(lambda: person.row(name)['text'] == 'mine too, and more' and not person.page.is_visible('.amr-clash'))
    person.press('Control+Enter')
    person.see(lambda: person.page.inner_text('.amr-row:first-child .amr-small').startswith('accepted'))
