"""Training as it is used: killed, gone on with, by several processes, again from its own config"""
import json, os, random, shutil, signal, subprocess, sys, sysconfig, time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from automode.core import data_path

COMMAND = str(Path(sysconfig.get_path('scripts'))/'automode')
STYLE, SUBJECT = data_path('samples', 'style'), data_path('samples', 'subject')
SHORT = ['--token', 'tiantian', '--class_word', 'rabbit', '--max_train_steps', '24', '--batch_size', '2', '--rank', '4', '--save_every_steps', '4',
         '--keep_checkpoints', '2', '--validate_every_steps', '8', '--log_every_steps', '4', '--sample_prompt', 'a rabbit', '--device', 'cpu']
LAST = 'checkpoints/step-000024/adapters.safetensors'

def environment(**more): return os.environ | dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1') | more

def run(*command, cwd, timeout=600):
    "Run a command to its end; what it printed"
    done = subprocess.run([str(o) for o in command], cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout
    return done.stdout

def same(a, b):
    "Are two LoRA files equal, bit for bit, in all their weights?"
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(a[o].equal(b[o]) for o in a)

def furthest(a, b):
    "The largest difference between the weights of two files"
    a, b = load_file(a), load_file(b)
    assert a.keys() == b.keys()
    return max(float((a[o].float() - b[o].float()).abs().max()) for o in a)

def steps(folder): return [(o['step'], o.get('loss'), o.get('validation_loss')) for o in map(json.loads, (folder/'metrics.jsonl').read_text().splitlines())]

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a few pictures, and a run that nobody disturbed"
    folder = tmp_path_factory.mktemp('training')
    (folder/'pictures').mkdir()
    for o in sorted(STYLE.glob('*.png'))[:10]: shutil.copy(o, folder/'pictures')
    run(COMMAND, 'train', 'pictures', '--out', 'whole', '--name', 'fox', *SHORT, cwd=folder)
    return folder

def test_killed_at_random_moments(place):
    "SIGKILL, again and again, also while a checkpoint is written; then the run ends as if nothing had happened"
    moments, kills = random.Random(0), 0
    while not (place/'killed'/'fox.safetensors').exists():
        process = subprocess.Popen([COMMAND, 'train', 'pictures', '--out', 'killed', '--name', 'fox', *SHORT], cwd=place, env=environment(),
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        before, started = (place/'killed'/'metrics.jsonl').exists() and len(steps(place/'killed')), time.time()
        if kills < 4:
            while process.poll() is None and (not (place/'killed'/'metrics.jsonl').exists() or len(steps(place/'killed')) <= before + kills % 2): time.sleep(.01)
            time.sleep(moments.random() * .5)
            process.send_signal(signal.SIGKILL)
            kills += 1
        said = process.communicate(timeout=300)[0]
        assert 'Traceback' not in said, said
        assert time.time() - started < 300
    assert kills == 4
    assert same(place/'whole'/'fox.safetensors', place/'killed'/'fox.safetensors')
    assert steps(place/'whole') == steps(place/'killed')

def test_a_longer_run_goes_on(place):
    "A run that is made longer equals one that was as long from the start, where the schedule does not know the end"
    constant = [*SHORT, '--lr_scheduler', 'constant', '--num_validation', '0']
    at = constant.index('--max_train_steps') + 1
    longer = [*constant[:at], '16', *constant[at+1:]]
    run(COMMAND, 'train', 'pictures', '--out', 'long', '--name', 'fox', *longer, cwd=place)
    run(COMMAND, 'train', 'pictures', '--out', 'short', '--name', 'fox', *[*constant[:at], '10', *constant[at+1:]], cwd=place)
    said = run(COMMAND, 'train', 'pictures', '--out', 'short', '--name', 'fox', *longer, cwd=place)
    assert 'going on from step 10' in said
    assert same(place/'long'/'fox.safetensors', place/'short'/'fox.safetensors')

def test_its_own_config_is_enough(place):
    run(COMMAND, 'train', '--config', 'whole/config.json', '--out', 'again', '--device', 'cpu', cwd=place)
    assert same(place/'whole'/'fox.safetensors', place/'again'/'fox.safetensors')

def launch(processes, *args, cwd):
    "The command, by several processes"
    launcher = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', processes, '--main_process_port', 0]
    if processes == 1: launcher = [sys.executable]
    return run(*launcher, '-m', 'automode.cli', *args, cwd=cwd)

def test_two_processes_are_as_good_as_one(place):
    "The same pictures in a step give the same weights; also when the run began with two processes and goes on with one"
    args = ['train', 'pictures', '--name', 'fox', *SHORT, '--ema_decay', '0.9', '--class_images', str(SUBJECT), '--train_text_encoder']
    at = args.index('--batch_size') + 1
    launch(1, *args[:at], 4, *args[at+1:], '--out', 'one', cwd=place)
    said = launch(2, *args, '--out', 'two', cwd=place)
    assert said.count('the first picture trains with') == 1
    assert furthest(*(place/o/LAST for o in ('one', 'two'))) < 1e-5
    half = place/'two-then-one'
    shutil.copytree(place/'two', half)
    for o in ('fox.safetensors', 'checkpoints/step-000024'): shutil.rmtree(half/o) if (half/o).is_dir() else (half/o).unlink()
    assert 'going on from step 20' in launch(1, *args, '--out', half.name, cwd=place)
    assert furthest(place/'two'/LAST, half/LAST) < 1e-5
