"""A few damaged files for every reader, as `tests/benchmarks/fuzz.py` makes them by the thousand"""
import os, subprocess, sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent/'benchmarks'/'fuzz.py'

@pytest.mark.parametrize('readers', ['rows history captions config', 'images toml', 'lora metadata ckpt'])
def test_damaged_files_are_read_or_a_problem(readers):
    done = subprocess.run([sys.executable, FUZZ, *readers.split(), '--here', '--mutations', '50', '--seed', '0'], capture_output=True, text=True, timeout=300, env=os.environ | {'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [[o, '50'] for o in readers.split()]

def test_the_fuzz_finds_a_reader_that_falls_over(tmp_path):
    "A reader that trusts its file is found out"
    code = f'''import json, runpy, sys
from pathlib import Path
fuzz = runpy.run_path({str(FUZZ)!r})
class Trusting:
    def samples(self, folder): return [('a.json', b'{{"score": 1, "text": "a"}}')]
    def read(self, path): return json.loads(Path(path).read_text())['score'] + 1
fuzz['READERS']['trusting'] = Trusting
rows = fuzz['read_here']('trusting', 50, 0)

print(sum(o['kind'] == 'other' for o in rows))'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and int(done.stdout) > 10, done.stdout + done.stderr
