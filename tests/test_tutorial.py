"""The first tutorial as a person goes through it: a real JupyterLab, a real browser"""
import json, re

import notebooks
from automode.run import Run
from browsing import NEEDS_BROWSER, keep_picture, open_page, run_cells

pytestmark = NEEDS_BROWSER
STEPS = 12                                                                                 # in place of the tutorial's; all else is as it is there

def run_next(page, cells, wait=120_000):
    "Run the next cells as a person does, and wait until each is done"
    for _ in range(cells):
        page.keyboard.press('Escape')
        page.keyboard.press('Shift+Enter')
        page.wait_for_timeout(300)
        page.wait_for_function("() => ![...document.querySelectorAll('.jp-Cell .jp-InputPrompt')].some(o => o.textContent.includes('*'))", timeout=wait)

def rows(folder): return {o['file_name']: o for o in map(json.loads, (folder/'metadata.jsonl').read_text(encoding='utf-8').splitlines())}

def test_a_person_goes_through_the_first_tutorial(lab, browser):
    nb = notebooks.read(notebooks.NBS/'tutorials'/'01_first_lora.ipynb')
    nb.cells = [o for o in nb.cells if o.cell_type == 'code' and not o.source.startswith('#| hide')]
    for cell in nb.cells:
        cell.outputs, cell.execution_count = [], None
        cell.source = re.sub(r'(?m)^(steps +=) \d+$', rf'\1 {STEPS}', cell.source)
    page, complaints = open_page(lab, browser, 'first_tutorial', nb, size=(1366, 1000))
    run_cells(page, 1)
    page.locator('.jp-Cell .cm-content').nth(1).click()
    run_next(page, 3)                                                                      # pictures, captions, the review
    page.wait_for_selector('.amr-picture[src]', timeout=60_000)
    dataset = lab[0]/'first'/'dataset'
    page.click('.am-editor')
    page.keyboard.press('Control+a')
    page.keyboard.type('a picture of a dd rabbit')
    page.keyboard.press('Control+Enter')                                                   # accepts, and goes on to the next
    page.wait_for_timeout(1500)
    keep_picture(page, 'tutorial-review')
    page.locator('.amr').click(position=dict(x=4, y=4))
    page.keyboard.press('x')
    page.wait_for_timeout(1500)
    kept = rows(dataset)
    assert [o['text'] for o in kept.values() if o.get('status') == 'accepted'] == ['a picture of a dd rabbit'] and sum(o.get('status') == 'excluded' for o in kept.values()) == 1
    page.locator('.jp-Cell .cm-content').nth(4).click()
    run_next(page, 2)                                                                      # a line of Python, the training
    run = Run(lab[0]/'first'/'outlined')
    page.wait_for_function("() => /^done/.test(document.querySelector('.amt-state').textContent)", timeout=90_000)
    assert run.now()['state'] == 'done' and run.config['num_images'] == 21    # 24, one left out, two held out
    run_next(page, 2)                                                                      # the comparison, the playground
    page.click('.amp-go')
    page.wait_for_function("() => document.querySelectorAll('.amp-pair img').length == 2 && document.querySelector('.amp').getAttribute('aria-busy') == 'false'", timeout=90_000)
    page.click('text=draw the grid')
    page.wait_for_selector('.amp-grid[src^=data]', timeout=120_000)
    page.locator('.amp').evaluate('o => o.scrollIntoView()')
    page.wait_for_timeout(500)
    keep_picture(page, 'tutorial-playground')
    page.locator('.jp-Cell .cm-content').nth(len(nb.cells) - 1).click()
    run_next(page, 1)                                                                      # the file
    assert 'LoRA, rank 16' in page.inner_text('.jp-Notebook') and (lab[0]/'first'/'before_after.png').exists() and complaints == []
    page.close()
