"""Training as it is used: killed, gone on with, by several processes, again from its own config"""
import json, os, random, re, shutil, signal, subprocess, sys, sysconfig, time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from automode.core import asset_path
from warm import warm

COMMAND = str(Path(sysconfig.get_path('scripts'))/'automode')
STYLE, SUBJECT = asset_path('samples', 'style'), asset_path('samples', 'subject')
SHORT = ['--name', 'fox', '--token', 'tiantian', '--class_word', 'rabbit', '--max_train_steps', '8', '--batch_size', '2', '--rank', '2',
         '--lr_scheduler', 'constant', '--save_every_steps', '4', '--keep_checkpoints', '2', '--num_validation', '1', '--validate_every_steps', '4',
         '--log_every_steps', '2', '--sample_prompt', '', '--device', 'cpu']           # samples take most of the time, and are looked at where they matter
LAST = 'checkpoints/step-000008/adapters.safetensors'

def environment(): return os.environ | dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', CUDA_VISIBLE_DEVICES='')

def begin(*command, cwd):
    "Start a command in a session of its own, as a terminal does"
    return subprocess.Popen([str(o) for o in command], cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)

def run(*command, cwd, code=0, timeout=300):
    "Run a command to its end; what it printed"
    process = begin(*command, cwd=cwd)
    said = process.communicate(timeout=timeout)[0]
    assert process.returncode == code, said
    return said

def train(*args, cwd, code=0):
    "Run `automode train` to its end, in a process that has the libraries imported already; what it printed"
    done = warm.command('train', *args, cwd=cwd, env=dict(CUDA_VISIBLE_DEVICES=''))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr

def told(said):
    "What a command printed, without the line on how it read the folder, and without notes"
    return [o for o in said.splitlines() if not o.startswith(('read as: ', 'note: '))]

def changed(args, **values):
    "The same flags, some with other values"
    args = list(args)
    for k, v in values.items(): args[args.index(f'--{k}') + 1] = str(v)
    return args

def same(a, b):
    "Are two LoRA files equal, bit for bit, in all their weights?"
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(a[o].equal(b[o]) for o in a)

def furthest(a, b):
    "The largest difference between the weights of two files"
    a, b = load_file(a), load_file(b)
    assert a.keys() == b.keys()
    return max(float((a[o] - b[o]).abs().max()) for o in a)

def steps(folder):
    "What was measured, without the times"
    path = folder/'metrics.jsonl'
    rows = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return [(o['step'], o.get('loss'), o.get('validation_loss')) for o in rows]

def wait_for(ready, process):
    "Look again and again until something is so, or the process has ended"
    while process.poll() is None and not ready(): time.sleep(.0005)

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a few pictures, and a run that nobody disturbed"
    folder = tmp_path_factory.mktemp('training')
    (folder/'pictures').mkdir()
    for o in sorted(STYLE.glob('*.png'))[:6]: shutil.copy(o, folder/'pictures')
    train('pictures', '--out', 'whole', *SHORT, cwd=folder)
    return folder

def test_killed_at_random_moments(place):
    "SIGKILL before the first checkpoint, while one is written, and at any moment; then the run ends as if nothing had happened"
    killed, lot, halves = place/'killed', random.Random(0), 0
    half = lambda: set(killed.glob('checkpoints/.step-*.tmp'))
    written = lambda: (killed/'metrics.jsonl').exists() and (killed/'metrics.jsonl').stat().st_mtime_ns
    for moment in ('first', 'any', 'writing', 'writing'):
        before, old = written(), half()
        process = begin(COMMAND, 'train', 'pictures', '--out', 'killed', *SHORT, cwd=place)
        wait_for(dict(first=lambda: len(steps(killed)) > 1, any=lambda: written() != before, writing=lambda: half() - old)[moment], process)
        if moment == 'any': time.sleep(lot.random())
        os.killpg(process.pid, signal.SIGKILL)
        assert 'Traceback' not in process.communicate()[0]
        assert process.returncode == -signal.SIGKILL                 # it was still at work
        halves += bool(half() - old)
    assert halves                                                    # at least one checkpoint was half-written
    train('pictures', '--out', 'killed', *SHORT, cwd=place)
    assert same(place/'whole/fox.safetensors', killed/'fox.safetensors')
    assert steps(place/'whole') == steps(killed)
    assert not half()

def test_a_longer_run_goes_on(place):
    "A run that is made longer equals one that was as long from the start, where the schedule does not know the end"
    drawing = changed(SHORT, sample_prompt='a rabbit')                 # samples change no weight
    train('pictures', '--out', 'longer', *changed(drawing, max_train_steps=5), cwd=place)
    assert 'resuming from step 5' in train('pictures', '--out', 'longer', *drawing, cwd=place)
    assert len(list((place/'longer/samples').glob('*.png'))) > 1
    assert same(place/'whole/fox.safetensors', place/'longer/fox.safetensors')

def test_its_own_config_is_enough(place):
    (place/'elsewhere').mkdir()
    said = train('--config', '../whole/config.json', '--out', 'again', '--device', 'cpu', cwd=place/'elsewhere')       # its paths are found again
    assert said.count('note: the starter models') == 1 and said.index('note: the starter models') < said.index('the first image trains')
    assert f"dataset 'pictures' of that run is '{place/'pictures'}'" in said
    assert same(place/'whole/fox.safetensors', place/'elsewhere/again/fox.safetensors')

def test_a_wrong_config_is_one_sentence(place):
    known = json.loads((place/'whole/config.json').read_text())
    for wrong, named in ((dict(rank=[4], seed='x', flip_p=50), ("rank must be a whole number, got [4]", "seed must be a whole number, got 'x'", 'flip_p must be between 0 and 1, got 50')),
                         (dict(learning_rate=float('nan'), dataset=5), ('learning_rate must be finite, got nan', 'dataset must be text, got 5'))):
        (place/'wrong.json').write_text(json.dumps(known | wrong))
        said = train('--config', 'wrong.json', '--out', 'wrong', cwd=place, code=1)
        assert len(told(said)) == 1 and all(o in said for o in named), said
    (place/'wrong.json').write_text('{"base": ' + '['*100_000 + ']'*100_000 + '}')
    said = train('--config', 'wrong.json', '--out', 'wrong', cwd=place, code=1)
    assert len(told(said)) == 1 and 'wrong.json' in said
    assert not (place/'wrong').exists()

def test_a_message_names_a_file_that_is_there(place, monkeypatch, capsys):
    "More files are left out than are printed, and the rest is in the file before anything is encoded"
    import automode.train
    monkeypatch.chdir(place)
    shutil.copytree('pictures', 'broken')
    for n in range(12): (place/f'broken/{n}.png').write_text('not an image')
    def encode(*args): raise RuntimeError('encoding')
    monkeypatch.setattr(automode.train, '_make_trainer', encode)
    with pytest.raises(RuntimeError, match='encoding'): automode.train.train('broken', out='left', token='tiantian', device='cpu')
    assert 'left out: 2 more, see left/left_out.jsonl' in capsys.readouterr().out
    assert len((place/'left/left_out.jsonl').read_text().splitlines()) == 12

def test_other_settings_on_the_way_are_said(place):
    "What may change counts from there on, what may not is refused, and nothing is dropped in silence"
    shutil.copytree(place/'whole', place/'other')
    said = train('pictures', '--out', 'other', *changed(SHORT, max_train_steps=9, batch_size=1, save_every_steps=3), '--gradient_accumulation_steps', '1', cwd=place)
    for o in ('max_train_steps is 9 from here on, it was 8', 'save_every_steps is 3 from here on, it was 4', 'the total batch size of this run stays 2',
              'batch_size is 1 from here on, it was 2', 'resuming from step 8'): assert o in said, said
    said = train('pictures', '--out', 'other', *changed(SHORT, rank=3), '--learning_rate', '.1', cwd=place, code=1)
    assert 'with rank=2, not 3' in said and 'not 0.1' in said and len(told(said)) == 1
    for wrong, named in ((dict(name='x'*250), 'name must be at most 200 bytes, got 250'), (dict(name='a/b'), "name must not contain '/'")):
        said = train('pictures', '--out', 'named', *changed(SHORT, **wrong), cwd=place, code=1)
        assert named in said and len(told(said)) == 1 and not (place/'named').exists()

def test_a_full_disk_keeps_the_checkpoint(place):
    "A disk that is too small is refused before the first step; one that fills up later costs one sentence, and the first checkpoint is resumed from"
    disk = place/'disk'
    disk.mkdir()
    mount = lambda o: subprocess.run(['mount', '-t', 'tmpfs', '-o', o, 'tmpfs', str(disk)], capture_output=True).returncode == 0
    size = sum(o.stat().st_size for o in (place/'whole/checkpoints/step-000008').iterdir()) // 1024
    if not mount(f'size={size * 3 // 2 + 200}k'): pytest.skip('a small disk can only be made by root')
    try:
        said = train('pictures', '--out', 'disk/run', *SHORT, cwd=place, code=1).splitlines()
        assert re.match(r"automode train: the checkpoints and LoRA files of this run need [\d,]+ bytes, and the disk of 'disk/run' has [\d,]+ free", said[-1])
        assert not steps(disk/'run') and not list((disk/'run').glob('checkpoints/*'))
        assert mount('remount,size=64m')
        process = begin(COMMAND, 'train', 'pictures', '--out', 'disk/run', *SHORT, cwd=place)
        wait_for(lambda: (disk/'run/checkpoints/step-000004').exists(), process)
        with suppress(OSError): (disk/'filler').write_bytes(bytes(64 << 20))
        said = process.communicate(timeout=300)[0].splitlines()
        assert process.returncode == 1 and re.match(r"automode train: .*[Nn]o space left on device.*(room|space)", said[-1]) and not any('Traceback' in o for o in said)
        assert [o.name for o in (disk/'run/checkpoints').iterdir()] == ['step-000004']
        (disk/'filler').unlink()
        assert 'resuming from step 4' in train('pictures', '--out', 'disk/run', *SHORT, cwd=place)
        assert same(place/'whole/fox.safetensors', disk/'run/fox.safetensors')
        assert steps(place/'whole') == steps(disk/'run')
    finally: subprocess.run(['umount', str(disk)], check=True)

def test_memory_that_runs_out_is_answered_with_what_would_fit(place):
    limit, large = 'ulimit -v 7000000; exec "$@"', changed(SHORT, batch_size=512, num_validation=0)      # 7 GB, for a run of more than 9
    said = run('sh', '-c', limit, 'sh', COMMAND, 'train', 'pictures', '--out', 'large', *large, cwd=place, code=1)
    assert 'needs about 9' in said and 'Traceback' not in said
    assert re.search(r'out of memory with 512 images of 64 pixels at a time.*would fit: .*--batch_size 256 --gradient_accumulation_steps 2', said), said

def test_trackers(place):
    "The rows go to TensorBoard as well; without it, the command says what to install"
    args = ['pictures', '--out', 'tracked', *changed(SHORT, max_train_steps=2), '--log_with', 'tensorboard']
    if not find_spec('tensorboard'):
        assert 'pip install tensorboard' in train(*args, cwd=place, code=1)
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    train(*args, cwd=place)
    events = EventAccumulator(str(next((place/'tracked').rglob('events.out.*')).parent)).Reload()
    for n, name in ((1, 'loss'), (2, 'validation_loss')):
        assert [(o.step, round(o.value, 5)) for o in events.Scalars(name)] == [(o[0], round(o[n], 5)) for o in steps(place/'tracked') if o[n] is not None]


WATCHED = """
import os, sys
import automode.training.step, automode.train
def watch(module, name):
    inner = getattr(module, name)
    def watched(*args, **kwargs):
        print(f"{name} by {os.environ.get('RANK', 0)}", flush=True)
        return inner(*args, **kwargs)
    setattr(module, name, watched)
for name in ('generate_samples', 'save_lora', 'keep_weights', 'start_run'): watch(automode.train, name)
watch(automode.training.step, 'save_checkpoint')
from automode.cli.commands import main
sys.exit(main())
"""

def launched(processes, *args, kind=('--multi_gpu',)):
    "The command, by several processes, saying who writes"
    return [sys.executable, '-m', 'accelerate.commands.launch', *kind, '--num_processes', processes, '--main_process_port', 0, 'watched.py', 'train', *args]

TOGETHER = ['shapes', *changed(SHORT, batch_size=1, save_every_steps=4), '--gradient_accumulation_steps', '2', '--ema_decay', '0.9', '--flip_p', '0.5',
            '--class_images', 'class', '--train_text_encoder']

@pytest.fixture(scope='module')
def shapes(place):
    "Wide and tall pictures, and class pictures"
    for folder, source in (('shapes', STYLE), ('class', SUBJECT)):
        (place/folder).mkdir()
        for n, o in enumerate(sorted(source.glob('*.png'))[:5]): Image.open(o).resize((64, 64) if n % 2 else (96, 48)).save(place/folder/o.name)
    (place/'watched.py').write_text(WATCHED)
    return place

def go_on(folder, name, processes):
    "Let other processes do the second half again"
    shutil.copytree(folder/name, folder/f'{name}-then-{processes}')
    half = folder/f'{name}-then-{processes}'
    (half/'fox.safetensors').unlink()
    shutil.rmtree(half/'checkpoints/step-000008')
    args = [*TOGETHER, '--out', half.name]
    said = run(*launched(processes, *args), cwd=folder) if processes > 1 else train(*args, cwd=folder)
    assert said.count('resuming from step 4') == 1
    return half

@pytest.fixture(scope='module')
def one(shapes):
    "What one process makes of four pictures in a step"
    train(*changed(TOGETHER, batch_size=4, gradient_accumulation_steps=1), '--out', 'one', cwd=shapes)
    return shapes/'one'

def alike(one, other):
    "Do two runs have the same weights and losses, but for rounding?"
    close = lambda rows: [(o, *(n and pytest.approx(n, abs=2e-5) for n in values)) for o, *values in rows]
    return furthest(one/LAST, other/LAST) < 1e-5 and steps(other) == close(steps(one))

def test_two_processes_are_as_good_as_one(shapes, one):
    "The same pictures in a step give the same weights, also when the number of processes changes on the way; and one process writes"
    said = run(*launched(2, *changed(TOGETHER, sample_prompt='a rabbit'), '--out', 'two'), cwd=shapes)
    assert alike(one, shapes/'two')
    assert said.count('the first image trains with') == said.count('Next: automode generate') == said.count('trained on') == 1
    assert ' by 1\n' not in said and said.count('save_checkpoint by 0') == 2 and said.count('generate_samples by 0') == 3
    assert alike(one, go_on(shapes, 'two', 1))
    assert alike(one, go_on(shapes, 'one', 2))

def test_a_sharded_base_learns_the_same(shapes, one):
    "With FSDP each process holds half of the unet; the second half is done by one process that holds all of it"
    said = run(*launched(2, *TOGETHER, '--out', 'sharded', kind=('--use_fsdp', '--fsdp_version', '2')), cwd=shapes)
    assert 'each of 2 processes holds a part of the denoiser' in said
    assert alike(one, shapes/'sharded')
    assert alike(one, go_on(shapes, 'sharded', 1))

def test_ctrl_c_stops_both_and_a_second_command_is_refused(shapes):
    args = ['pictures', *changed(SHORT, max_train_steps=3000, batch_size=1, save_every_steps=3000, validate_every_steps=3000), '--out', 'stopped']
    process, folder = begin(*launched(2, *args), cwd=shapes), shapes/'stopped'
    wait_for(lambda: any(o[1] for o in steps(folder)), process)
    refused = train(*args, cwd=shapes, code=1)
    assert len(told(refused)) == 1 and "'stopped' is in use by process" in refused
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    found = re.findall(r'stopped at step (\d+) of 3000; a checkpoint is kept', said)
    assert len(found) == 1, said
    assert [o.name for o in (folder/'checkpoints').iterdir()] == [f'step-{int(found[0]):06d}']
    said = run(*launched(2, *changed(args, max_train_steps=int(found[0]) + 2)), cwd=shapes)
    assert said.count(f'resuming from step {found[0]}') == 1 and (folder/'fox.safetensors').exists()
