"""Captioning by several processes: every picture once, and killed at any moment the same captions as undisturbed"""
import json, os, random, shutil, subprocess, sys, time

import psutil, pytest

from automode.core import asset_path

NUM = 100


def make_folder(folder, num=NUM):
    "Pictures that differ in their names only every 24th time, and two that cannot be read"
    folder.mkdir(parents=True)
    samples = sorted(asset_path('samples', 'style').glob('*.png'))
    for n in range(num): shutil.copy(samples[n%len(samples)], folder/f'{n:04d}.png')
    (folder/'0007.png').write_bytes(b'')
    (folder/'0033.png').write_text('Dear diary')
    return folder

def launch(folder, num_processes=2, *flags):
    "The command as its documentation says, in a session of its own"
    who = ['-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', str(num_processes), '--main_process_port', '0'] if num_processes > 1 else []
    command = [sys.executable, *who, '-m', 'automode.cli', 'caption', str(folder), '--batch_size', '2', '--num_beams', '6', *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''})

def journalled(folder):
    "The pictures that the journals tell of, as often as they do"
    lines = [o for path in (folder/'.automode'/'captions').glob('0*.jsonl') for o in path.read_bytes().splitlines() if o]
    return [row['file_name'] for o in lines if o.endswith(b'}') for row in json.loads(o)['rows']]

def kill_one(process, rng):
    "Kill the launcher or one of the processes that it started, by lot; wait until all have gone"
    try: family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess: family = []
    if family: killed = rng.choice(family); killed.kill()
    _, alive = psutil.wait_procs(family, timeout=0 if family and killed.pid == process.pid else 30)
    for o in alive: o.kill()                                                    # the launcher is gone: nobody stops the others
    process.communicate()

def files(folder):
    "What the captions are, to the byte"
    return [(folder/o).read_text() for o in ('metadata.jsonl', 'rejected.jsonl')]


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "One process, from beginning to end"
    folder = make_folder(tmp_path_factory.mktemp('one')/'pictures')
    process = launch(folder, 1)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert f'captioned {NUM - 2}, skipped 0, rejected 2' in said
    return folder

def test_two_processes_write_what_one_does(undisturbed, tmp_path):
    folder = make_folder(tmp_path/'pictures')
    process = launch(folder)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert said.count('captioned') == 1                                         # the last line is said once
    assert files(folder) == files(undisturbed)

def test_killed_they_go_on(undisturbed, tmp_path):
    "Three times one process is killed in the middle of the work; tests/benchmarks/caption_kills.py does it twenty times"
    folder, rng, seen = make_folder(tmp_path/'pictures'), random.Random(0), []
    for n in range(3):
        process = launch(folder)
        start, deadline = len(journalled(folder)), time.time() + 120
        while len(journalled(folder)) < start + 4 and process.poll() is None and time.time() < deadline: time.sleep(.01)
        kill_one(process, rng)
        names = journalled(folder)
        assert len(names) == len(set(names))                                    # every picture once, whoever did it
        seen.append(len(names))
    assert seen == sorted(seen) and seen[0] >= 4                                # what was done stays done
    process = launch(folder)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert files(folder) == files(undisturbed)
    if seen[-1] < NUM - 2: assert f'captioned {NUM - 2 - seen[-1]},' in said    # and was not done again
