#!/usr/bin/env python
"""How long does the conversion of a large dataset take, and how much memory? Prints a table.

    python tests/benchmarks/convert_size.py
    python tests/benchmarks/convert_size.py --pictures 5000 --to kohya webdataset
    python tests/benchmarks/convert_size.py --check                                    # exit with 1 when a figure falls short

Tiny pictures with captions are made in a temporary folder, a thousand in each sub-folder. Each conversion is done in a fresh process; "the same again" finds everything
written already. "plain copy" reads and writes the same bytes and names with nothing else around: what the disk and the system alone take.
"""
import argparse, json, os, platform, subprocess, sys, tempfile
from pathlib import Path

from PIL import Image

from automode.data.dataset import Dataset, new_row

SECONDS, MEGABYTES, LARGE = 300, 500, 100_000
STEPS = {
    'plain copy': '''for name in (json.loads(o)['file_name'] for o in open(f'{source}/metadata.jsonl')):
    os.makedirs(os.path.dirname(f'{out}/plain/{name}'), exist_ok=True)
    with open(f'{source}/{name}', 'rb') as a, open(f'{out}/plain/{name}', 'wb') as b: b.write(a.read())
    with open(f'{out}/plain/{name}.txt', 'w') as b: b.write('a caption')''',
    'to {to}': "convert(source, f'{out}/{to}', to='{to}')",
    'the same again': "convert(source, f'{out}/{to}', to='{to}')",
    '{to} to ours': "convert(f'{out}/{to}', f'{out}/{to} back', to='automode')"}
FRESH = '''
import json, os, resource, sys, time
from automode.convert import convert
source, out = sys.argv[1:]
began, used = time.perf_counter(), time.process_time()
{code}
unit = 1 if sys.platform == 'darwin' else 1024
print(json.dumps(dict(seconds=time.perf_counter() - began, processor=time.process_time() - used,
                      megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit/1e6)))'''


def make_source(folder, n):
    "A dataset of `n` pictures of one pixel"
    small = folder.parent/'one.png'
    Image.new('RGB', (1, 1)).save(small)
    data, dataset = small.read_bytes(), Dataset(folder)
    for k in range(n):
        name = f'part {k//1000:03}/picture {k:06}.png'
        if not k % 1000: (folder/name).parent.mkdir(parents=True)
        (folder/name).write_bytes(data)
        dataset.rows.append(new_row(name, f'a thing that somebody has described, number {k}'))
    dataset.write()

def measure(source, out, code):
    "One step in a fresh process"
    done = subprocess.run([sys.executable, '-c', FRESH.replace('{code}', code), str(source), str(out)], capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pictures', type=int, nargs='+', default=[25_000, LARGE], help='sizes of the sets')
    parser.add_argument('--to', nargs='+', default=['kohya', 'webdataset'], help='formats to write')
    parser.add_argument('--check', action='store_true', help='exit with 1 when a figure falls short')
    args, short = parser.parse_args(), []
    print(f"{'step':<28} {'pictures':>9} {'seconds':>9} {'processor':>10} {'megabytes':>10}")
    for n in args.pictures:
        with tempfile.TemporaryDirectory() as folder:
            make_source(Path(folder)/'source', n)
            steps = [('plain copy', STEPS['plain copy'])]
            steps += [(k.replace('{to}', to), o.replace('{to}', to)) for to in args.to for k, o in STEPS.items() if k != 'plain copy']
            for name, code in steps:
                o = measure(f'{folder}/source', f'{folder}/out', code)
                print(f"{name:<28} {n:>9,} {o['seconds']:>9.1f} {o['processor']:>10.1f} {o['megabytes']:>10.0f}", flush=True)
                if o['seconds'] > SECONDS*max(1, n/LARGE) or o['megabytes'] > MEGABYTES: short.append(name)
    print(f'{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}; '
          f'asked: {LARGE:,} pictures in under {SECONDS} s and {MEGABYTES} MB')
    if args.check and short: sys.exit(1)


if __name__ == '__main__': main()
