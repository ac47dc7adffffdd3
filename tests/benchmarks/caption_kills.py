#!/usr/bin/env python
"""Two processes caption a folder and are killed (SIGKILL, one of them or their launcher, by lot) at random moments, twenty times.

    python tests/benchmarks/caption_kills.py [--kills 20] [--pictures 6000] [--seed 0]

After each kill the same command is given again. In the end `metadata.jsonl` and `rejected.jsonl` must be, byte for byte, those of a run by one
process that nobody disturbed. It takes some minutes, most of them for starting Python.
"""
import argparse, random, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_caption import files, journalled, kill_one, launch, make_folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--pictures', type=int, default=6000)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as tmp:
        one, two = (make_folder(Path(tmp)/o, args.pictures) for o in ('one', 'two'))
        alone = launch(one, 1)
        assert alone.wait() == 0, alone.stderr.read()
        for n in range(args.kills):
            process, before, began = launch(two), len(journalled(two)), time.time()
            # half of the kills fall in the work, the others anywhere: while Python starts, between journal and metadata, at the end
            if n % 2: time.sleep(rng.uniform(0, 12))
            else:
                wanted = before + rng.randint(1, max(1, args.pictures//args.kills))
                while len(journalled(two)) < wanted and process.poll() is None: time.sleep(.005)
            kill_one(process, rng)
            print(f'killed after {time.time() - began:5.1f} s, {before:4d} -> {len(names := journalled(two)):4d} pictures in the journals', flush=True)
            assert len(names) == len(set(names)), 'a picture was captioned twice'
        last = launch(two)
        assert last.wait() == 0, last.stderr.read()
        same = files(one) == files(two)
        print(f'{args.kills} kills; the files are {"the same" if same else "NOT the same"} as undisturbed')
        sys.exit(not same)


if __name__ == '__main__': main()
