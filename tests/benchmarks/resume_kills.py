"""A training run is killed again and again, and must end as if nobody had touched it.

    python tests/benchmarks/resume_kills.py [--kills 20] [--steps 400] [--longer 500]

One run is left alone. A second one is killed with SIGKILL at random moments, some of them while a checkpoint is being written, and the same command is
given again each time. Both must end with the same LoRA, bit for bit, and the same measured losses. At the end the run is made longer, and compared with
one that was that long from the start.
"""
import argparse, json, random, shutil, signal, subprocess, sys, sysconfig, tempfile, time
from pathlib import Path

from safetensors.torch import load_file

from automode.core import asset_path

COMMAND = str(Path(sysconfig.get_path('scripts'))/'automode')

def command(out, steps):
    "The command of one run"
    settings = dict(token='inky', max_train_steps=steps, batch_size=4, rank=8, save_every_steps=5, keep_checkpoints=2, validate_every_steps=50, log_every_steps=5,
                    lr_scheduler='constant', ema_decay=.99, flip_p=.5, sample_prompt='', out=out, name='inky', device='cpu')
    return [COMMAND, 'train', 'pictures', *[str(o) for k, v in settings.items() for o in (f'--{k}', v)]]

def rows(folder): return [{k: o.get(k) for k in ('step', 'loss', 'validation_loss')} for o in map(json.loads, (folder/'metrics.jsonl').read_text().splitlines())]

def is_same(a, b):
    "Are two runs the same, in every weight and every measured loss?"
    x, y = load_file(a/'inky.safetensors'), load_file(b/'inky.safetensors')
    return x.keys() == y.keys() and all(x[o].equal(y[o]) for o in x) and rows(a) == rows(b)

def kill_once(place, steps, lot, mean_seconds):
    "Start the run, kill it; the newest checkpoint, and whether one was half-written; None when it came to its end first"
    folder, metrics = place/'killed'/'checkpoints', place/'killed'/'metrics.jsonl'
    half = lambda: set(folder.glob('.step-*.tmp'))
    written = lambda: metrics.stat().st_mtime_ns if metrics.exists() else 0
    before, old, in_writing, deadline = written(), half(), lot.random() < .4, None
    process = subprocess.Popen(command('killed', steps), cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if deadline is None and written() != before: deadline = time.time() + lot.expovariate(1/mean_seconds)   # it is under way
        if deadline and time.time() > deadline and (half() - old or not in_writing): break
        time.sleep(.0005)
    if process.poll() is not None: return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return max((o.name for o in folder.glob('step-*')), default='none'), bool(half() - old)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--longer', type=int, default=500)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    place, lot, begun = Path(tempfile.mkdtemp()), random.Random(args.seed), time.time()
    shutil.copytree(asset_path('samples', 'style'), place/'pictures')
    started = time.time()
    subprocess.run(command('whole', args.steps), cwd=place, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    alone = time.time() - started
    print(f'{args.steps} steps undisturbed: {alone:.0f} s', flush=True)
    found = []
    while len(found) < args.kills:
        if (kill := kill_once(place, args.steps, lot, alone/args.kills*.4)) is None: break
        found.append(kill)
        print(f'killed {len(found)}: newest checkpoint {kill[0]}' + (', while one was being written' if kill[1] else ''), flush=True)
    subprocess.run(command('killed', args.steps), cwd=place, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    same = is_same(place/'whole', place/'killed')
    print(f"{len(found)} kills, {sum(o[1] for o in found)} of them in a checkpoint: the weights and losses are {'the same' if same else 'NOT THE SAME'}")
    for out, steps in (('long', args.longer), ('killed', args.longer)):
        subprocess.run(command(out, steps), cwd=place, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    longer = all(load_file(place/'long'/'inky.safetensors')[k].equal(v) for k, v in load_file(place/'killed'/'inky.safetensors').items())
    print(f"made longer, {args.longer} steps: {'the same' if longer else 'NOT THE SAME'} as a run that was that long from the start; {time.time() - begun:.0f} s in all")
    shutil.rmtree(place)
    sys.exit(not (same and longer and len(found) == args.kills))

if __name__ == '__main__': main()
