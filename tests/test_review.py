"""The review widget as a person uses it: a real JupyterLab, a real browser, and what is on the disk afterwards"""
import json, re, shutil, time, urllib.request

import pytest

from automode.captions.review import Review
from automode.core import asset_path
from automode.data.dataset import Dataset
from automode.data.rows import new_row
from browsing import LOOKS, NEEDS_BROWSER, contrast, focus, keep_picture, look_name, open_notebook, run_cells

pytestmark = NEEDS_BROWSER
NAMES = 'cat fox apple tree rabbit fish house sun'.split()
HOSTILE = '<img src=x onerror="window.hacked = 1"> **bold** <script>window.hacked = 2</script>'

def make_dataset(folder):
    "Drawings with captions and scores; one has none, one has a hostile one"
    folder.mkdir(parents=True)
    rows = []
    for n, path in enumerate(sorted(asset_path('samples', 'style').glob('*.png'))):
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
    def see(self, what, seconds=60):
        "Wait until something is so"
        end = time.time() + seconds
        while not what():
            if time.time() > end: keep_picture(self.page, 'failed')
            assert time.time() < end, [self.text(o) for o in ('count', 'name', 'message')]
            self.page.wait_for_timeout(20)

REVIEW = "from automode.widgets.review import review\nreview({!r}, token='inky')"

@pytest.fixture
def person(lab, browser, request):
    "Somebody who has run the cell with the widget, in a page that must not complain"
    name, look = re.sub(r'\W+', '_', request.node.name), getattr(request, 'param', {})
    make_dataset(lab[0]/name)
    page, complaints = open_notebook(lab, browser, name, REVIEW.format(name), **look)
    page.wait_for_selector('.amr-thumb', timeout=90_000)
    focus(page, '.amr')
    yield Person(page, lab[0]/name)
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
    here = person.at
    person.press('Escape', 'j')
    person.see(lambda: person.at != here and person.text('count').startswith('3 of 24'))
    second = person.at
    person.press('j')
    person.see(lambda: person.at != second)
    person.press('k')
    person.see(lambda: person.at == second and person.text('count').startswith('3 of 24'))
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

def test_the_next_without_a_caption(person):
    person.page.select_option('.am-select >> nth=0', 'name')
    person.see(lambda: 'style_01.png' in person.page.inner_text('.amr-row >> nth=0'))
    person.page.click('.amr-row >> nth=0')
    person.see(lambda: person.at == 'style_01.png')
    person.press('n')
    person.see(lambda: person.at == 'style_04.png')
    person.press('n')
    person.see(lambda: 'further down' in person.text('message'))

def test_what_was_typed_stays_with_its_picture(person):
    name = person.at
    person.press('e')
    person.page.keyboard.type('typed in a hurry')
    person.press('Alt+ArrowDown', 'Alt+ArrowDown', 'Alt+ArrowDown')
    person.see(lambda: person.text('count').startswith('4 of 24') and person.row(name)['text'])
    assert [k for k, v in on_disk(person.folder).items() if v['text'] == 'typed in a hurry'] == [name]

def test_keys_pressed_at_once_mean_what_will_be_there(person):
    names = Review(person.folder).names
    person.press('j', 'x', 'j', 'j', 'x', 'k')                                            # faster than any answer
    person.see(lambda: [o for o in names if person.row(o)['status'] == 'excluded'] == [names[1], names[3]] and person.at == names[2])

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
    assert person.page.input_value('.am-editor') == HOSTILE
    person.see(lambda: person.page.inner_text('.amr-line').startswith('<img src=x'))

def test_another_writer_is_noticed(person):
    name = person.at
    Review(person.folder).write(name, 'written elsewhere')
    person.see(lambda: person.page.input_value('.am-editor') == 'written elsewhere')
    assert 'changed elsewhere' in person.text('message')

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

def test_words_filters_and_many_captions(person):
    page = person.page
    person.press('w')
    page.click('.amr-words .amr-chip:has-text("cat")')                                    # whole words: no caterpillar
    person.see(lambda: person.text('count').startswith('1 of 3 (24 in all)'))
    page.click('.amr-chips .amr-chip')
    person.see(lambda: ' of 24 ' in person.text('count'))
    person.press('Escape', 'f')
    page.fill('[aria-label="score below"]', '-1.95')
    person.see(lambda: '(24 in all)' in person.text('count') and ' of 4 ' in person.text('count'))
    page.fill('[aria-label="lacks this word, e.g. the token"]', 'fish')
    person.see(lambda: ' of 3 ' in person.text('count'))
    page.fill('.amr-search', 'number 2[02]$')
    person.see(lambda: person.text('count').startswith('none'))
    page.check('text=pattern (regex) >> nth=0')
    person.see(lambda: ' of 2 ' in person.text('count'))
    page.click('.amr-chips >> text=show all')
    person.see(lambda: ' of 24 ' in person.text('count'))
    person.press('Escape', 'b')
    page.fill('[aria-label="find"]', 'a drawing')
    page.fill('[aria-label="put in its place"]', 'an ink drawing')
    person.press('Enter')
    person.see(lambda: 'would change 22 of 24' in person.text('preview'))
    assert page.inner_text('.amr-preview del >> nth=0').strip() == 'a' and page.inner_text('.amr-preview ins >> nth=0').strip() == 'an ink'
    assert not any('ink' in o['text'] for o in on_disk(person.folder).values())          # nothing yet
    page.fill('.amr-search', 'cat')
    person.see(lambda: ' of 3 ' in person.text('count') and not page.is_visible('text=change 22 captions'))     # what was previewed is no longer what would change
    page.fill('.amr-search', '')
    person.see(lambda: ' of 24 ' in person.text('count'))
    page.click('.amr-panel >> text=preview')
    page.click('text=change 22 captions')
    person.see(lambda: sum('an ink drawing' in o['text'] for o in on_disk(person.folder).values()) == 22)
    person.press('Escape', 'u')
    person.see(lambda: not any('ink' in o['text'] for o in on_disk(person.folder).values()))

def test_marks_and_other_captions(person):
    page, first = person.page, person.at
    person.press('j', 'm', 'j', 'm')
    person.see(lambda: len(page.query_selector_all('.amr-tick')) == 2)
    page.click('.amr-row >> nth=4', modifiers=['Shift'])
    person.see(lambda: len(page.query_selector_all('.amr-tick')) == 4)
    page.click('.amr-row >> nth=3', modifiers=['Control'])
    person.see(lambda: len(page.query_selector_all('.amr-tick')) == 3)
    text = person.row(person.at)['text']
    person.press('p')
    person.see(lambda: sum(o['text'] == text for o in on_disk(person.folder).values()) == 3)
    page.click('text=no marks')
    person.see(lambda: not page.query_selector_all('.amr-tick'))
    person.press('Escape', 'k', 'k', 'k', 'c')
    person.see(lambda: person.at == first)
    page.keyboard.type('an icon of')
    person.press('Enter')
    person.see(lambda: page.query_selector_all('.amr-found button'), 120)
    wanted = page.inner_text('.amr-found button >> nth=0').rsplit(' ', 1)[0]
    assert wanted.startswith('an icon of')
    page.click('.amr-found button >> nth=0')
    person.see(lambda: person.row(first)['text'] == wanted)

def test_the_page_and_the_kernel_are_begun_again(person, lab):
    page, address, name = person.page, lab[1], person.at
    person.press('e')
    page.keyboard.type('kept over both')
    person.see(lambda: person.row(name)['text'] == 'kept over both')
    sessions = json.load(urllib.request.urlopen(f'{address}/api/sessions?token=t'))
    kernel = next(o['kernel']['id'] for o in sessions if o['path'] == f'{person.folder.name}.ipynb')
    urllib.request.urlopen(urllib.request.Request(f'{address}/api/kernels/{kernel}/restart?token=t', b'', method='POST'))
    page.keyboard.type(', and after')                                                     # nobody hears this, and the widget says so
    page.wait_for_selector('.amr-silent:visible', timeout=90_000)
    assert page.input_value('.am-editor') == 'kept over both, and after'
    page.reload()
    page.wait_for_selector('.jp-Notebook .jp-Cell .cm-content', timeout=90_000)
    run_cells(page)
    page.wait_for_selector('.amr-thumb', timeout=90_000)
    person.see(lambda: person.at != name)                                                 # it has a caption now
    focus(page, '.amr')
    person.press('u')
    person.see(lambda: person.row(name)['text'] == '')                                    # what was done before the restart can be taken back

@pytest.mark.parametrize('person', LOOKS, indirect=True, ids=look_name)
def test_it_can_be_read_on_every_screen(person, request):
    page = person.page
    for n, (keys, seen) in enumerate([('', '.amr-thumb'), ('f', '.amr-panel'), ('w', '.amr-words .amr-chip'), ('b', '.amr-panel'), ('c', '.amr-begin'), ('?', '.amr-keys')]):
        focus(page, '.amr')
        person.press('Escape', *keys)
        page.wait_for_selector(f'{seen}:visible')
        page.wait_for_timeout(300)
        keep_picture(page, f"review-{request.node.callspec.id.replace(' ', '-')}-{n}")
    for part in ('.amr-line', '.amr-small', '.amr-count', '.am-editor', '.am-select', '.am-button', '.amr-name', '.amr-keys span', '.am-label'): assert contrast(page, part) > 4.5, part
    box = page.evaluate("(() => { const o = document.querySelector('.amr'); return [o.scrollWidth, o.clientWidth, o.clientHeight] })()")
    assert box[0] <= box[1] + 1 and box[1] > 700, box
