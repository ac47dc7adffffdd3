"""Notebooks as a person uses them: a real JupyterLab and a real browser"""
import json, os, shutil, socket, subprocess, sys, time, urllib.request

import nbformat, pytest

CHROMIUM = next((o for o in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if o), None)
NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; install it, e.g. 'apt-get install chromium'")
SIZES, THEMES = ((1366, 768), (1920, 1080)), ('JupyterLab Light', 'JupyterLab Dark')
LOOKS = [dict(size=size, theme=theme) for size in SIZES for theme in THEMES]

def look_name(look): return f"{look['size'][0]}{look['theme'][10:]}"

def keep_picture(page, name):
    "Keep a picture of the page for who wants to look: AUTOMODE_PICTURES names the folder"
    if folder := os.environ.get('AUTOMODE_PICTURES'): page.screenshot(path=f'{folder}/{name}.png')

@pytest.fixture(scope='session')
def lab(tmp_path_factory):
    "A JupyterLab server: its folder and its address"
    folder = tmp_path_factory.mktemp('lab')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    places = 'CONFIG_DIR', 'DATA_DIR', 'RUNTIME_DIR'
    own = {f'JUPYTER_{o}': str(folder/'home'/o) for o in places} | {f'JUPYTERLAB_{o}_DIR': str(folder/'home'/o) for o in ('SETTINGS', 'WORKSPACES')}
    (folder/'home/CONFIG_DIR/labconfig').mkdir(parents=True)                              # its debugger complains in the console of a busy machine, and nobody debugs here
    (folder/'home/CONFIG_DIR/labconfig/page_config.json').write_text('{"disabledExtensions": {"@jupyterlab/debugger-extension": true}}')
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', '--ServerApp.token=t', '--ip=127.0.0.1',
               '--LabApp.news_url=None', f'--ServerApp.root_dir={folder}']
    process = subprocess.Popen(command, cwd=folder, env={k: v for k, v in os.environ.items() if k != 'IN_TEST'} | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f'http://127.0.0.1:{port}'
    for _ in range(600):
        try: urllib.request.urlopen(f'{address}/api?token=t')
        except OSError: time.sleep(.1)
        else: break
    yield folder, address
    process.terminate()
    process.wait()

@pytest.fixture(scope='session')
def browser():
    "A browser without a window"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield chromium
        chromium.close()

def set_up(address, theme):
    "Choose how JupyterLab looks, `JupyterLab Light` or `JupyterLab Dark`, and have it ask nothing"
    for part, settings in dict(themes={'theme': theme, 'adaptive-theme': False}, notification=dict(fetchNews='false')).items():
        body = json.dumps(dict(raw=json.dumps(settings))).encode()
        urllib.request.urlopen(urllib.request.Request(f'{address}/lab/api/settings/@jupyterlab/apputils-extension:{part}?token=t', body,
                                                      {'Content-Type': 'application/json'}, method='PUT'))

def run_cells(page, cells=1):
    """Run the first cells of the notebook, once its kernel is there

    A cell that is run earlier makes JupyterLab 4.6 start a second kernel and send what widgets say to the first (ipykernel #1557: "Unknown subshell_id").
    """
    for n in range(cells):
        for _ in range(30):
            if dialog := page.query_selector('.jp-Dialog .jp-mod-accept'): dialog.click()  # JupyterLab asks about the kernel that was restarted
            page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state='attached', timeout=180_000)
            page.locator('.jp-Cell .cm-content').nth(n).click()
            page.keyboard.press('Shift+Enter')
            page.wait_for_timeout(2000)
            if '[ ]' not in page.locator('.jp-Cell .jp-InputPrompt').nth(n).inner_text(): break

def open_notebook(lab, browser, name, *cells, size=(1366, 768), theme='JupyterLab Light'):
    "A page with a notebook whose cells have been run, and what the page has complained of"
    nb = nbformat.v4.new_notebook(metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')))
    nb.cells = [nbformat.v4.new_code_cell(o) for o in cells]
    page, complaints = open_page(lab, browser, name, nb, size, theme)
    run_cells(page, len(cells))
    return page, complaints

def open_page(lab, browser, name, nb, size=(1366, 768), theme='JupyterLab Light'):
    "A page with a notebook of which nothing was run, and what the page has complained of"
    folder, address = lab
    set_up(address, theme)
    nbformat.write(nb, folder/f'{name}.ipynb')
    for o in json.load(urllib.request.urlopen(f'{address}/api/sessions?token=t')):         # kernels of the tests before, which have torch in memory
        urllib.request.urlopen(urllib.request.Request(f'{address}/api/sessions/{o["id"]}?token=t', method='DELETE'))
    page, complaints = browser.new_page(viewport=dict(width=size[0], height=size[1])), []
    page.set_default_timeout(90_000)
    page.on('console', lambda o: complaints.append(o.text) if o.type == 'error' else None)
    page.on('pageerror', lambda o: complaints.append(str(o)))
    page.goto(f'{address}/lab/workspaces/{name}/tree/{name}.ipynb?token=t')
    page.wait_for_selector('.jp-Notebook .jp-Cell .cm-content', timeout=90_000)
    return page, complaints

def focus(page, selector):
    "Give a part the keyboard until it keeps it: JupyterLab, still busy with its start, takes it back"
    kept = 0
    for _ in range(60):
        kept = kept + 1 if page.eval_on_selector(selector, 'el => el.contains(document.activeElement)') else 0
        if kept == 4: return
        if not kept: page.focus(selector)
        page.wait_for_timeout(250)

def contrast(page, selector):
    "How far a text, with all that makes it paler, stands out from what is behind it, as WCAG 2 defines it (1 to 21)"
    return page.eval_on_selector(selector, """el => {
      const numbers = o => o.match(/[0-9.]+/g).map(Number)
      const light = rgb => { const [r, g, b] = rgb.map(o => o / 255).map(o => o <= .03928 ? o / 12.92 : ((o + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b }
      let behind = [255, 255, 255], opaque = 1
      for (let o = el; o; o = o.parentElement) opaque *= Number(getComputedStyle(o).opacity)
      for (let o = el; o; o = o.parentElement) { const c = numbers(getComputedStyle(o).backgroundColor); if (c.length < 4 || c[3] === 1) { behind = c.slice(0, 3); break } }
      const ink = numbers(getComputedStyle(el).color), share = opaque * (ink[3] ?? 1)
      const a = light(behind.map((o, n) => share * ink[n] + (1 - share) * o)), b = light(behind)
      return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) }""")
