#!/usr/bin/env python
"""How fast a review is in a real JupyterLab and a real browser, with many pictures.

    python tests/benchmarks/review.py [--pictures 10000]

Measured in the page: from Shift-Enter in the cell to the first picture with its thumbnails, and from a key to the next picture with its caption. Asked: under 2 s, and under 100 ms.
"""
import argparse, statistics, sys, time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import browsing, nbformat
from PIL import Image

from automode.data.dataset import Dataset
from automode.data.rows import new_row

WAIT = """([key, what]) => new Promise(done => {
  const root = document.querySelector('.amr'), name = () => root.querySelector('.amr-name').textContent, before = name(), begun = performance.now()
  const look = () => { const img = root.querySelector('.amr-picture'); if (name() !== before && img.complete && img.naturalWidth) done(performance.now() - begun); else requestAnimationFrame(look) }
  root.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true })); look() })"""

def make(folder, num):
    "A dataset of small pictures with captions and scores"
    folder.mkdir()
    rows = []
    for n in range(num):
        name = f'{n:06}.png'
        Image.new('RGB', (64, 64), (n % 251, n // 251 % 251, 90)).save(folder/name)
        rows.append(new_row(name, f'a picture of number {n}') | dict(score=-(n % 997)/500, auto_text=f'a picture of number {n}', status='auto'))
    Dataset(folder, rows).write()

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pictures', type=int, default=10_000)
    args = parser.parse_args()
    import tempfile
    labs = browsing.lab.__wrapped__(SimpleNamespace(mktemp=lambda name: Path(tempfile.mkdtemp(name))))
    browsers = browsing.browser.__wrapped__()
    lab, browser = next(labs), next(browsers)
    make(lab[0]/'many', args.pictures)
    cells = [nbformat.v4.new_code_cell(o) for o in ('from automode.widgets.review import review', "review('many')")]
    page, complaints = browsing.open_page(lab, browser, 'many_pictures', nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3'))))
    browsing.run_cells(page, 1)
    page.locator('.jp-Cell .cm-content').nth(1).click()
    begun = time.perf_counter()
    page.keyboard.press('Shift+Enter')
    page.wait_for_function("() => { const o = document.querySelector('.amr-picture'); return o && o.complete && o.naturalWidth && document.querySelector('.amr-thumb') }", polling=10, timeout=60_000)
    print(f'{args.pictures:,} pictures: open after {time.perf_counter() - begun:.2f} s')
    page.wait_for_timeout(2000)
    times = [page.evaluate(WAIT, ['j', '']) for _ in range(40)]
    print(f'next picture: {statistics.median(times):.0f} ms in the median, {max(times):.0f} ms at the most, of {len(times)}')
    print('elements in the list:', page.locator('.amr-row').count(), '; complaints:', complaints)
    for o in (browsers, labs): next(o, None)

if __name__ == '__main__': main()
