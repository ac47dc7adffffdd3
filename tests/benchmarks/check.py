#!/usr/bin/env python
"""How long it takes to list, measure and check a folder, and whether twice the pictures take twice the time.

    python tests/benchmarks/check.py [pictures] [edge in pixels]
"""
import resource, sys, tempfile, time
from pathlib import Path

import numpy as np
from PIL import Image

from automode.check import check_dataset
from automode.data.buckets import assign_buckets, make_buckets, read_sizes
from automode.data.dataset import Dataset, new_row
from automode.data.images import find_images


def make_folder(folder, number, edge):
    "JPEGs of soft noise, each different, in subfolders of a thousand"
    rng, rows = np.random.default_rng(0), []
    for n in range(number):
        path = folder/f'{n//1000:03}'/f'{n:06}.jpg'
        path.parent.mkdir(exist_ok=True, parents=True)
        small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        small.resize((edge, edge*3//4 if n % 3 else edge), Image.Resampling.BICUBIC).save(path, quality=85)
        rows.append(new_row(path.relative_to(folder).as_posix(), f'a picture of thing number {n}'))
    Dataset(folder, rows).write()

def timed(what, function):
    "Run `function` once and say how long it took"
    start = time.perf_counter()
    value = function()
    print(f'{what:44} {time.perf_counter() - start:8.2f} s')
    return value

def main(number=2000, edge=512):
    check_dataset(make_small())  # what is imported once is not counted
    for n in (number, 2*number):
        with tempfile.TemporaryDirectory() as folder:
            make_folder(Path(folder), n, edge)
            print(f'{n} pictures of {edge} pixels')
            paths = timed('  list the folder', lambda: find_images(folder))
            sizes, _ = timed('  read every size', lambda: read_sizes(paths))
            timed('  fill buckets', lambda: assign_buckets(sizes, make_buckets(512)))
            check = timed('  check_dataset', lambda: check_dataset(folder))
            timed('  as text', lambda: str(check))
    print(f'peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024:.0f} MB')

def make_small():
    "A folder of three"
    folder = Path(tempfile.mkdtemp())
    make_folder(folder, 3, 64)
    return folder


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
