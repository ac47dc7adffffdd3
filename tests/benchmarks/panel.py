"""What the live panel costs the training that it shows: processor time a second, and the same steps in a real Jupyter kernel with the panel and without, in turn

    python tests/benchmarks/panel.py --rounds 8 --steps 100
"""
import argparse, os, statistics, tempfile, time
from pathlib import Path

from jupyter_client.manager import start_new_kernel

from automode.core import append_row, write_json
from automode.run import Run
from automode.widgets.run import RunWidget

SETTINGS = "token='tiantian', class_word='rabbit', batch_size=4, log_every_steps=1, save_every_steps=0, sample_prompt='', device='cpu', mixed_precision='no'"

def run(client, code):
    "What a cell printed"
    said = []
    reply = client.execute_interactive(code, timeout=None, output_hook=lambda o: said.append(o['content'].get('text', '')))
    assert reply['content']['status'] == 'ok', reply['content']
    return ''.join(said)

def look_time(rows):
    "Processor seconds of one look at a run of so many rows, of which one is new"
    folder = Path(tempfile.mkdtemp())
    write_json(folder/'config.json', dict(name='fox', max_train_steps=10*rows))
    row = lambda n: dict(step=10*n, loss=.1 + .01*(n % 7), learning_rate=1e-4, seconds_per_step=.1, samples_per_second=40., memory=2**30)
    (folder/'metrics.jsonl').write_text(''.join(f'{o}\n'.replace("'", '"') for o in map(row, range(1, rows))))
    widget, spent = RunWidget(Run(folder)), []
    for n in range(20):
        append_row(folder/'metrics.jsonl', row(rows + n))
        started = time.thread_time()
        widget.refresh()
        spent.append(time.thread_time() - started)
    return statistics.median(spent)

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=8)
    parser.add_argument('--steps', type=int, default=100)
    args = parser.parse_args()
    for rows in (100, 1000, 10_000): print(f'{rows:6} rows: {1000*look_time(rows):.1f} ms of processor time a second')
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    manager, client = start_new_kernel(cwd=tempfile.mkdtemp(), env=env)
    try:
        run(client, 'import os\nfrom automode.core import asset_path\nfrom automode.train import train')
        ratios = []
        for n in range(args.rounds):
            rates = {}
            for shown in (True, False) if n % 2 else (False, True):
                run(client, "os.environ.pop('IN_TEST', None)" if shown else "os.environ['IN_TEST'] = '1'")
                out = f"{n}-{shown}"
                run(client, f"run = train(asset_path('samples', 'subject'), out={out!r}, max_train_steps={args.steps}, {SETTINGS})")
                rates[shown] = float(run(client, "print(run.metrics[-1]['samples_per_second'])"))
            ratios.append(rates[True]/rates[False])
            print(f'round {n + 1}: {rates[False]:.2f} samples a second without, {rates[True]:.2f} with: {ratios[-1]:.3f}', flush=True)
        print(f'median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}')
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)

if __name__ == '__main__': main()
