"""Flow models in runs as people make them: killed and resumed, by several processes, sharded, with every kind of adapter (tiny models of the real classes)

One family stands for the six in the tests of processes; `FLOW_FAMILIES=all` runs these for every family, which takes some ten minutes
"""
import os, shutil, signal, sys

import pytest
from PIL import Image

from automode.core import asset_path
from test_train import COMMAND, alike, begin, changed, run, same, steps, train, wait_for
from tiny_flow import MAKERS, tiny_flow

SHORT = ['images', '--name', 'fox', '--token', 'tiantian', '--class_word', 'rabbit', '--max_train_steps', '8', '--batch_size', '2', '--rank', '2',
         '--resolution', '64', '--save_every_steps', '4', '--num_validation', '1', '--validate_every_steps', '4', '--log_every_steps', '2',
         '--caption_dropout', '.3', '--flip_p', '.5', '--sample_prompt', '', '--device', 'cpu']
NAMES = [*MAKERS] if os.environ.get('FLOW_FAMILIES') == 'all' else ['z_image']
some = pytest.mark.parametrize('name', NAMES)

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with wide and square images with captions of several lengths"
    folder = tmp_path_factory.mktemp('flow_runs')
    (folder/'images').mkdir()
    for n, o in enumerate(sorted(asset_path('samples', 'style').glob('*.png'))[:5]):
        Image.open(o).resize((64, 64) if n % 2 else (96, 48)).save(folder/'images'/o.name)
        (folder/'images'/o.name).with_suffix('.txt').write_text('a rabbit' + ' on a hill'*n)
    return folder

@pytest.fixture(scope='module')
def one(place):
    "A function that trains a family once in one process; its folder, and the arguments of the run"
    found = {}
    def get(name):
        if name not in found:
            args = [*SHORT, '--base', str(tiny_flow(name, place/f'{name}-base'))]
            train(*args, '--out', name, cwd=place)
            found[name] = place/name, args
        return found[name]
    return get

@some
def test_killed_and_resumed(place, one, name):
    "SIGKILL after the first checkpoint; the same command again ends with the same bits"
    (whole, args), out = one(name), place/f'{name}-killed'
    process = begin(COMMAND, 'train', *args, '--out', out.name, cwd=place)
    wait_for((out/'checkpoints/step-000004').exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL                 # it was still at work
    assert 'resuming from step 4' in train(*args, '--out', out.name, cwd=place)
    assert same(whole/'fox.safetensors', out/'fox.safetensors') and steps(whole) == steps(out)

@some
@pytest.mark.parametrize('kind', [['--multi_gpu'], ['--use_fsdp', '--fsdp_version', '2']], ids=['ddp', 'fsdp'])
def test_two_processes_are_as_good_as_one(place, one, name, kind):
    "Each does half of a step, with the whole transformer or with half of it"
    (whole, args), out = one(name), f'{name}-two{len(kind)}'
    command = [sys.executable, '-m', 'accelerate.commands.launch', *kind, '--num_processes', 2, '--main_process_port', 0, '-m', 'automode.cli']
    said = run(*command, 'train', *changed(args, batch_size=1), '--out', out, cwd=place)
    assert ('each of 2 processes holds a part of the denoiser' in said) == ('--use_fsdp' in kind)
    assert alike(whole, place/out)
