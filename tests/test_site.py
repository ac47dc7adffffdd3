"""The documentation site as a reader meets it: built from the notebooks, served, and walked from page to page in a real browser"""
import functools, http.server, re, subprocess, sys, threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from automode.cli.commands import command_parser, commands
from browsing import NEEDS_BROWSER, contrast, keep_picture
from notebooks import ROOT

pytestmark = [NEEDS_BROWSER,
              pytest.mark.skipif(sys.version_info < (3, 11), reason='smalldocs, which makes the site, needs Python 3.11')]
PHONE, DESK = dict(width=390, height=844), dict(width=1366, height=768)
SHOWN = 'index howto/prompts howto/learning reference/commands reference/options reference/glossary reference/design reference/benchmarks train'.split()
PARTS = 'main p', 'main :not(pre) > code', 'main pre span', 'main td', 'main p a', 'main h1', '.description'

LOOK = """() => ({
  links: [...document.querySelectorAll('a[href]')].map(o => o.href),
  ids: [...document.querySelectorAll('[id]')].map(o => o.id),
  missing: [...document.images].filter(o => !o.naturalWidth).map(o => o.src.slice(0, 80)),
  raw: [...document.querySelectorAll('main p, main li')].map(o => { const copy = o.cloneNode(true); copy.querySelectorAll('code, pre').forEach(c => c.remove()); return copy.textContent }).filter(o => /\\]\\(\\S*\\)/.test(o)),
  wide: document.documentElement.scrollWidth > innerWidth })"""

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The site's folder and its address"
    folder = tmp_path_factory.mktemp('site')/'docs'
    done = subprocess.run([sys.executable, ROOT/'tests'/'docs.py', folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()

@pytest.fixture(scope='module')
def walked(site, browser):
    "What is on every page that one comes to from the first, by its name; and what the browser complained of"
    folder, address = site
    page, complaints, found, ahead = browser.new_page(viewport=PHONE), [], {}, ['index.html']
    page.on('console', lambda o: complaints.append(f'{page.url}: {o.text}') if o.type == 'error' else None)
    page.on('pageerror', lambda o: complaints.append(f'{page.url}: {o}'))
    page.on('request', lambda o: None if o.url.startswith((address, 'data:', 'blob:')) else complaints.append(f'{page.url} asks {o.url}'))
    while ahead:
        name = ahead.pop()
        if name in found or not (folder/name).is_file(): continue
        page.goto(address + name)
        found[name] = page.evaluate(LOOK)
        found[name]['links'] = [unquote(o.removeprefix(address)) if o.startswith(address) else o for o in found[name]['links']]
        ahead += [urldefrag(o)[0] for o in found[name]['links'] if '://' not in o and urldefrag(o)[0].endswith('.html')]
    page.close()
    return found, complaints

def test_every_page_is_found_from_the_first(site, walked):
    assert {o.relative_to(site[0]).as_posix() for o in site[0].rglob('*.html')} == set(walked[0])

def test_no_link_is_dead(site, walked):
    folder, (found, _) = site[0], walked
    dead = []
    for name, page in found.items():
        for link in (o for o in page['links'] if '://' not in o and not o.startswith('mailto:')):
            target, part = urldefrag(link)
            target = target or 'index.html'
            if not (folder/target).is_file() or part and part not in found[target]['ids']: dead.append(f'{name}: {link}')
    assert not dead, '\n'.join(dead)

def test_nothing_is_missing_and_nothing_sticks_out_on_a_phone(walked):
    found, complaints = walked
    assert complaints == []
    assert {k: v['missing'] for k, v in found.items() if v['missing']} == {}
    assert [k for k, v in found.items() if v['wide']] == []
    assert {k: v['raw'] for k, v in found.items() if v['raw']} == {}

def test_every_module_has_its_page_and_sources(walked):
    modules = {o.relative_to(ROOT/'automode').with_suffix('').as_posix() for o in (ROOT/'automode').rglob('[!_]*.py')}
    assert not {f'{o}.html' for o in modules} - set(walked[0])
    for module in modules:
        lines = (ROOT/'automode'/f'{module}.py').read_text().splitlines()
        found = [re.search(r'/blob/\w+/(.*)#L(\d+|None)$', o) for o in walked[0][f'{module}.html']['links']]
        found = [(o[1], next(iter(lines[int(o[2]) - 1:]), '') if o[2] != 'None' else '') for o in found if o]
        assert found or not any(re.match(r'(def|class) [^_]', o) for o in lines), module
        assert [o for o in found if o[0] != f'automode/{module}.py' or not re.match(r'\s*(def|class) ', o[1])] == [], module

def test_every_command_has_its_flags(site):
    _, *parts = re.split(r'<section id="([^"]+)" class="level2"', (site[0]/'reference'/'commands.html').read_text(encoding='utf-8'))
    sections = dict(zip(parts[::2], parts[1::2]))
    assert set(commands) | {'settings'} <= set(sections)
    for name in commands:
        asked = [o for group in command_parser(name)._action_groups for o in group._group_actions if o.dest != 'help']
        for o in asked: assert (o.option_strings or [o.metavar or o.dest])[0] in sections[name] + sections['settings'] * commands[name].settings, (name, o.dest)

def test_search_finds_resume(site, browser):
    page = browser.new_page(viewport=DESK)
    page.goto(site[1])
    page.locator('.smalldocs-search input >> visible=true').first.fill('resume')
    page.wait_for_selector('.search-result')
    assert min(contrast(page, f'.search-result-{o}') for o in ('title', 'section', 'text')) > 4.5
    assert any('howto/resume' in o.get_attribute('href') for o in page.query_selector_all('.search-result'))
    keep_picture(page, 'site-search')
    page.keyboard.press('Enter')
    page.wait_for_url('**/*resume*')
    page.close()

@pytest.mark.parametrize('size', [PHONE, DESK], ids=['phone', 'desk'])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_it_can_be_read(site, browser, size, scheme):
    page = browser.new_page(viewport=size, color_scheme=scheme)
    for name in SHOWN:
        page.goto(f'{site[1]}{name}.html')
        keep_picture(page, f"site-{name.replace('/', '-')}-{size['width']}-{scheme}")
        low = {o: round(contrast(page, o), 1) for o in PARTS if page.query_selector(o)}
        assert min(low.values()) > 4.5, (name, low)
        red, green, blue = map(int, re.findall(r'\d+', page.evaluate('getComputedStyle(document.body).backgroundColor'))[:3])
        assert (red + green + blue > 380) == (scheme == 'light')
        if size == DESK: assert not page.evaluate(LOOK)['wide']
    page.close()

def test_the_menu_and_the_switch(site, browser):
    page = browser.new_page(viewport=PHONE, color_scheme='light')
    page.goto(site[1])
    page.click('.quarto-btn-toggle >> visible=true')
    page.click('#quarto-sidebar >> text=How to')
    page.wait_for_timeout(400)
    keep_picture(page, 'site-menu')
    page.click('#quarto-sidebar >> text=Which images can I use?')
    page.wait_for_url('**/howto/pictures.html')
    page.set_viewport_size(DESK)
    page.click('.quarto-color-scheme-toggle >> visible=true')
    page.wait_for_function("document.documentElement.classList.contains('quarto-dark')")
    page.reload()
    page.wait_for_function("document.documentElement.classList.contains('quarto-dark')")
    page.close()
