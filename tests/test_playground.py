"""A LoRA tried as a person does it: a real JupyterLab, a real browser"""
import pytest
from PIL import Image

from browsing import LOOKS, NEEDS_BROWSER, contrast, keep_picture, look_name, open_notebook

pytestmark = NEEDS_BROWSER
HOSTILE = '<img src=x onerror=alert(1)>'

def make_run(folder):
    "A run with two checkpoints of random numbers"
    import torch
    from automode.lora.adapters import add_adapter
    from automode.core import make_generator, write_json
    from automode.lora.files import lora_metadata, save_lora
    from automode.models.load import load_base
    base, generator = load_base('starter', device='cpu'), make_generator(0)
    weights = add_adapter(base.unet, rank=4)
    write_json(folder/'config.json', dict(name='toy', base='starter', max_train_steps=20, resolution=64))
    for path in (folder/'loras'/'toy-000010.safetensors', folder/'toy.safetensors'):
        for weight in weights: weight.data = torch.randn(weight.shape, generator=generator)*.15
        save_lora(path, base, lora_metadata(base, 'toy', tag_frequency={'toy': {'a picture of a red apple': 2, HOSTILE: 1}}))

@pytest.fixture(scope='module')
def playing(lab):
    "The cell that plays, in a folder with a run"
    make_run(lab[0]/'toy')
    return "from automode.widgets.playground import playground\nplayground('toy', num_inference_steps=8, device='cpu')"

def sources(page): return page.eval_on_selector_all('.amp-pair img', 'all => all.map(o => o.src)')

def wait_for_other(page, before):
    "Until other pictures are shown and nothing is at work"
    page.wait_for_function("""before => { const now = [...document.querySelectorAll('.amp-pair img')].map(o => o.src)
      return now.length == 2 && now.join() != before.join() && document.querySelector('.amp').getAttribute('aria-busy') == 'false' }""", arg=before, timeout=90_000)
    return sources(page)

@pytest.mark.parametrize('look', (LOOKS[0], LOOKS[3]), ids=look_name)
def test_two_pictures_side_by_side(lab, browser, playing, look):
    name = f'play_{look_name(look).replace(" ", "_")}'
    page, complaints = open_notebook(lab, browser, name, playing, **look)
    page.wait_for_selector('.amp')
    assert page.is_disabled('.amp-buttons >> text=save')
    page.click('.amp-go')
    wait_for_other(page, [])
    page.click('text=draw the grid')
    page.wait_for_selector('.amp-grid[src^=data]', timeout=90_000)
    page.wait_for_function("() => document.querySelector('.amp').getAttribute('aria-busy') == 'false'")
    page.hover('.amp-go')
    for part in ('.amp-label span', '.amp-go', '.amp-pair figcaption', '.amp-side .am-select'): assert contrast(page, part) > 4.5, part
    assert page.eval_on_selector('.amp', 'o => o.scrollWidth <= o.clientWidth')
    page.locator('.amp').scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    keep_picture(page, name)
    assert complaints == []
    page.close()

def test_a_person_plays(lab, browser, playing):
    page, complaints = open_notebook(lab, browser, 'a_person_plays', playing, "print('still here')")
    page.wait_for_selector('.amp')
    assert page.input_value('.amp-form textarea') == 'a picture of a red apple'
    assert HOSTILE in page.inner_text('.amp-form select')                                   # a text, and nothing else
    page.click('.amp-form textarea')
    page.keyboard.press('Control+a')
    page.keyboard.type('a picture of a dd moon')                                            # d d would take a cell away
    page.keyboard.press('Control+Enter')
    first = wait_for_other(page, [])
    page.fill('[aria-label="LoRA scale, slider"]', '0.5')                                   # as if it were moved and let go
    page.dispatch_event('[aria-label="LoRA scale, slider"]', 'change')
    half = wait_for_other(page, first)
    assert half[0] == first[0] and half[1] != first[1] and 'scale 0.5' in page.inner_text('.amp-pair')
    page.select_option('select[aria-label=LoRA]', 'step 10')
    other = wait_for_other(page, half)
    assert other[0] == first[0] and 'step 10' in page.inner_text('.amp-pair')
    page.click('.amp >> text=another')
    noise = wait_for_other(page, other)
    assert noise[0] != first[0]
    page.click('.amp-buttons >> text=save')
    page.wait_for_selector('text=/^saved: .*png, .*png/')
    seed = int(page.input_value('.amp-form input[type=number]'))
    told = sorted(Image.open(o).info['parameters'] for o in (lab[0]/'toy'/'pictures').iterdir())
    assert [o.splitlines()[0] for o in told] == ['a picture of a dd moon', 'a picture of a dd moon <lora:toy-000010:0.5>'] and all(f'Seed: {seed},' in o for o in told)
    page.select_option("select[aria-label=\"the grid's y\"]", '')
    page.fill("[aria-label=\"values of the grid's x\"]", 'much')
    page.click('text=draw the grid')
    page.wait_for_selector('text=/numbers separated by commas/')
    page.fill("[aria-label=\"values of the grid's x\"]", '0, 1')
    page.click('text=draw the grid')
    page.wait_for_selector('.amp-grid[src^=data]', timeout=90_000)
    page.click('text=save the grid')
    page.wait_for_function("() => /^saved: [^,]*png$/.test(document.querySelector('.amp-message').textContent)")
    assert sum('Script: X/Y/Z plot, X Type: Lora strength, X Values: "0, 1"' in Image.open(o).info['parameters'] for o in (lab[0]/'toy'/'pictures').iterdir()) == 1
    page.fill('[aria-label="steps, slider"] + input', '900')
    page.click('.amp-go')
    page.fill('.amp-form textarea', 'typed while it draws')
    page.click('.amp-buttons >> text=stop', timeout=90_000)                                 # the kernel is not kept from hearing it
    page.wait_for_selector('text=stopped')
    page.fill('[aria-label="steps, slider"] + input', '8')
    page.click('.amp-go')
    page.fill('[aria-label="steps, slider"] + input', '9')                                  # before the pictures are there
    noise = wait_for_other(page, noise)
    assert page.input_value('.amp-form textarea') == 'typed while it draws' and page.input_value('[aria-label="steps, slider"] + input') == '9'
    page.fill('[aria-label="steps, slider"] + input', '8')
    page.click('.amp-form textarea')
    page.keyboard.press('Control+a')
    page.keyboard.type(HOSTILE)
    page.keyboard.press('Control+Enter')
    wait_for_other(page, noise)
    assert page.locator('.jp-Cell').count() == 3 and 'still here' in page.inner_text('.jp-Notebook') and complaints == []
    page.close()
