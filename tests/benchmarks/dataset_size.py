#!/usr/bin/env python
"""How long do listing, reading, rewriting and bulk edits of a large dataset take, and how much memory? Prints a table.

    python tests/benchmarks/dataset_size.py
    python tests/benchmarks/dataset_size.py --pictures 25000 100000 --keep             # keep the figures in dataset_size.json
    python tests/benchmarks/dataset_size.py --check                                    # exit with 1 when a figure falls short

Tiny pictures are made in a temporary folder, a hundred in each sub-folder, every tenth with a caption beside it. Each step is done in a fresh process that imports nothing else.
"""
import argparse, json, os, platform, subprocess, sys, tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
MEGABYTES, LARGE = 500, 100_000
SECONDS = {'all of them': 10, 'edit: a prefix': 5, 'undo it': 5, 'edit: find a pattern, replace': 5}   # what is asked
STEPS = {
    'list': 'dataset = Dataset.start(folder)',
    'start and write': 'dataset = Dataset.start(folder); dataset.write()',
    'read': 'dataset = Dataset.read(folder)',
    'read, edit each row, write': '''dataset = Dataset.read(folder)
for n, o in enumerate(dataset): o |= dict(text=f'a photograph of thing {n} on a wooden table near a window', score=-n/1e6)
dataset.write()''',
    'read, write what is there': 'dataset = Dataset.read(folder); dataset.write()',
    'merge what another wrote': '''dataset = Dataset.read(folder)
for o in dataset.rows[::2]: o['status'] = 'accepted'
other = Dataset.read(folder)
for o in other.rows[1::2]: o['text'] = 'changed elsewhere'
other.write(); del other; began = time.perf_counter(); dataset.write()''',
    'all of them': '''dataset = Dataset.start(folder)
dataset = Dataset.read(folder)
for o in dataset: o['status'] = 'edited'
dataset.write()''',
    'edit: a prefix': '''from automode.captions.edits import change_captions
done = change_captions(folder, prefix='a painting of'); dataset = done.dataset; assert len(done) == len(dataset)''',
    'undo it': '''from automode.captions.history import undo
done = undo(folder); dataset = done.dataset; assert len(done) == len(dataset)''',
    'edit: find a pattern, replace': '''from automode.captions.edits import change_captions
done = change_captions(folder, find=r'(\\w+)$', replace=r'big \\1', regex=True); dataset = done.dataset; assert len(done) == len(dataset)'''}
FRESH = '''
import json, resource, sys, time
from automode.data.dataset import Dataset
folder, before = sys.argv[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
{code}
seconds = time.perf_counter() - began
unit = 1 if sys.platform == 'darwin' else 1024
print(json.dumps(dict(rows=len(dataset), seconds=round(seconds, 2),
                      megabytes=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit/1e6))))'''


def make_pictures(folder, n):
    "Fill `folder` with `n` pictures of one pixel"
    small = folder/'one.png'
    Image.new('RGB', (1, 1)).save(small)
    data = small.read_bytes()
    small.unlink()
    for k in range(n):
        if not k % 100: (parent := folder/f'part {k//100:05}').mkdir()
        (parent/f'picture {k:07}.png').write_bytes(data)
        if not k % 10: (parent/f'picture {k:07}.txt').write_text('a thing that somebody has described')

def measure(folder, name, n):
    "One step in a fresh process"
    done = subprocess.run([sys.executable, '-c', FRESH.format(code=STEPS[name]), str(folder)], capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    figures = json.loads(done.stdout)
    assert figures.pop('rows') == n, (name, figures)
    return dict(step=name, pictures=n) | figures

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pictures', type=int, nargs='+', default=[25_000, LARGE], help='sizes of the sets')
    parser.add_argument('--keep', action='store_true', help='keep the figures beside this script')
    parser.add_argument('--check', action='store_true', help='exit with 1 when a figure falls short')
    args, rows = parser.parse_args(), []
    print(f"{'step':<30} {'pictures':>9} {'seconds':>9} {'megabytes':>10}")
    for n in args.pictures:
        with tempfile.TemporaryDirectory() as folder:
            make_pictures(Path(folder), n)
            for name in STEPS:
                rows.append(o := measure(folder, name, n))
                print(f"{o['step']:<30} {o['pictures']:>9,} {o['seconds']:>9.2f} {o['megabytes']:>10}", flush=True)
    machine = f'{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}'
    print(f"{machine}; asked: {LARGE:,} pictures in under {MEGABYTES} MB and {', '.join(f'{k}: {v} s' for k, v in SECONDS.items())}")
    if args.keep: (HERE/'dataset_size.json').write_text(json.dumps(dict(machine=machine, figures=rows), indent=1) + '\n')
    last = [o for o in rows if o['step'] in SECONDS and o['pictures'] >= LARGE]
    if args.check and not all(o['seconds'] < SECONDS[o['step']] and o['megabytes'] < MEGABYTES for o in last): sys.exit(1)


if __name__ == '__main__': main()
