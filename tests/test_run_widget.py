"""A training run watched as a person does it: a real JupyterLab, a real browser, a training that is stopped"""
import json, subprocess, sys, time, urllib.request

import pytest

from automode.core import asset_path
from automode.run import Run
from browsing import LOOKS, NEEDS_BROWSER, contrast, keep_picture, look_name, open_notebook, run_cells

pytestmark = NEEDS_BROWSER
SETTINGS = "token='tiantian', class_word='rabbit', batch_size=2, rank=4, num_validation=1, log_every_steps=2, device='cpu', mixed_precision='no'"

def train_cell(name, steps, more=''):
    "What trains into the folder `name`"
    return (f"from automode.train import train\n"
            f"run = train({str(asset_path('samples', 'subject'))!r}, out={name!r}, max_train_steps={steps}, {SETTINGS}{more})")

def begin(folder, name, steps):
    "A process that trains, once it takes steps"
    process = subprocess.Popen([sys.executable, '-c', train_cell(name, steps)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (folder/name/'now.json').exists() and process.poll() is None: time.sleep(.1)
    return process

@pytest.mark.parametrize('look', LOOKS[1:2], ids=look_name)
def test_training_shows_itself_and_is_interrupted(lab, browser, look):
    name = 'live_' + look_name(look).replace(' ', '_')
    page, complaints = open_notebook(lab, browser, name, train_cell(name, 4000, ', save_every_steps=10'), **look)
    page.wait_for_selector('.amt-mean', timeout=120_000)                                   # the curve
    page.wait_for_function("() => /step [1-9][0-9]+ of 4000 .*left/.test(document.querySelector('.amt-state').textContent)", timeout=120_000)
    page.wait_for_function("() => document.querySelectorAll('.amt-pictures img').length == 2", timeout=120_000)
    assert 'before' in page.inner_text('.amt-pictures') and not page.query_selector('.jp-OutputArea .widget-hprogress')   # no second bar
    for part in ('.amt-state', '.amt-facts b', '.amt-message', '.amt-pictures figcaption'): assert contrast(page, part) > 4.5, part
    page.wait_for_timeout(3000)
    keep_picture(page, f'live-{look_name(look).replace(" ", "-")}')
    sessions = json.load(urllib.request.urlopen(f'{lab[1]}/api/sessions?token=t'))         # the ■ of the toolbar asks the server for this
    kernel = next(o['kernel']['id'] for o in sessions if o['path'] == f'{name}.ipynb')
    urllib.request.urlopen(urllib.request.Request(f'{lab[1]}/api/kernels/{kernel}/interrupt?token=t', b'', method='POST'))
    page.wait_for_selector('text=/stopped at step \\d+ of 4000; a checkpoint is kept/', timeout=180_000)
    page.wait_for_function("() => /^stopped/.test(document.querySelector('.amt-state').textContent)", timeout=120_000)
    keep_picture(page, f'live-stopped-{look_name(look).replace(" ", "-")}')
    run = Run(lab[0]/name)
    assert 10 < run.now()['step'] < 4000 and run.checkpoints and run.loras and not (run.folder/'stop').exists()
    assert complaints == []
    page.close()

def test_a_run_of_another_process_is_watched_to_its_end(lab, browser):
    process = begin(lab[0], 'other', 60)
    page, complaints = open_notebook(lab, browser, 'watching', "from automode.widgets.run import watch\nwatch('other')", "from automode.run import Run\nRun('other')")
    page.wait_for_selector('.amt-state', timeout=180_000)
    process.communicate()
    assert process.returncode == 0
    page.wait_for_function("() => /^done · step 60 of 60/.test(document.querySelector('.amt-state').textContent)", timeout=180_000)
    assert 'other.safetensors' in page.inner_text('.amt-message') and not page.is_visible('.am-button')
    run_cells(page, 2)                                                                    # opened again, after the end
    page.wait_for_selector('.jp-RenderedHTML table')
    assert 'step 60 of 60, done' in page.inner_text('.jp-RenderedHTML')
    page.locator('.jp-RenderedHTML table').first.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    keep_picture(page, 'run-done')
    assert complaints == []
    page.close()

def test_the_button_stops_another_process(lab, browser):
    folder, process = lab[0], begin(lab[0], 'long', 4000)
    page, complaints = open_notebook(lab, browser, 'stopping', "from automode.widgets.run import watch\nwatch('long')")
    page.click('.am-button', timeout=180_000)
    said = process.communicate(timeout=180)[0]
    assert 'stopped at step' in said and Run(folder/'long').checkpoints
    page.wait_for_function("() => /^stopped/.test(document.querySelector('.amt-state').textContent)", timeout=120_000)
    assert 'resume from step' in page.inner_text('.amt-message') and not (folder/'long'/'stop').exists() and complaints == []
    page.close()
