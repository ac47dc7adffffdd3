"""Flow models in runs as people make them: killed and resumed, by several processes, sharded, with every kind of adapter (tiny models of the real classes)

One family stands for the six in the tests of processes; `FLOW_FAMILIES=all` runs these for every family, which takes some ten minutes
"""
import copy, os, signal, sys

import pytest, torch
from PIL import Image

from automode.core import Problem, asset_path, quiet
from automode.generate import apply_lora, load_pipeline
from automode.lora.adapters import add_adapter, target_layers
from automode.lora.files import read_lora_info, save_diffusers_lora, save_lora, write_plain
from automode.lora.tools import info, info_text, merge, resize
from automode.models.load import as_pipeline, encode_prompts, load_base
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


# --- kinds of adapters

KINDS = dict(dora=dict(use_dora=True), loha=dict(kind='loha'), lokr=dict(kind='lokr'))
each = pytest.mark.parametrize('name', MAKERS)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A function that makes and loads the tiny model of a family once: base, a pipeline, and a function that predicts with a transformer"
    folder, found = tmp_path_factory.mktemp('flow_adapters'), {}
    def get(name):
        if name in found: return found[name]
        base = load_base(tiny_flow(name, folder/name), 'cpu')
        torch.manual_seed(0)
        latents = torch.randn(1, base.family.latent_channels(base.denoiser), 32//base.vae_scale, 48//base.vae_scale)
        condition = encode_prompts(base, ['a red apple'])
        found[name] = base, load_pipeline(base.name, device='cpu'), lambda o: base.family.predict(o, latents, torch.tensor([.5]), condition)
        return found[name]
    return get

def learn(transformer, call, settings):
    "Train an adapter for two steps; all its weights change, except those of the text stream of the last block, which has no effect in some families"
    add_adapter(transformer, 4, 8., **settings)
    learned = {k: v for k, v in transformer.named_parameters() if v.requires_grad}
    before, optimizer = {k: v.detach().clone() for k, v in learned.items()}, torch.optim.AdamW(learned.values(), .05, weight_decay=0)
    for _ in range(2):
        call(transformer).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    last = f'transformer_blocks.{len(getattr(transformer, "transformer_blocks", ())) - 1}.'
    assert all(k.startswith(last) for k, v in learned.items() if torch.equal(before[k], v))

@each
@pytest.mark.parametrize('kind', KINDS)
def test_adapters(made, name, kind, tmp_path):
    "automode reads every kind from its file; diffusers reads DoRA from its folder, and LoKr where it says so"
    base, ours, call = made(name)
    plain, file = base.denoiser, tmp_path/'a.safetensors'
    without = call(plain)
    base.denoiser = copy.deepcopy(plain)
    try:
        learn(base.denoiser, call, KINDS[kind])
        trained = call(base.denoiser).detach()
        save_lora(file, base, dtype=torch.float32)
        written = save_diffusers_lora(tmp_path/'diffusers', base)
    finally: base.denoiser = plain
    change = (trained - without).abs().max()
    same = lambda transformer, bound=1e-4: (call(transformer) - trained).abs().max() < bound*change
    assert change > .01 and same(apply_lora(ours, file).transformer)
    assert read_lora_info(file)['layers'] == len(target_layers(plain)) and dict(dora='DoRA', loha='LoHa', lokr='LoKr')[kind] in info_text(info(file))
    theirs = as_pipeline(base)
    theirs.transformer = copy.deepcopy(plain)
    reads = kind == 'dora' or kind == 'lokr' and base.family.lokr_in_diffusers
    with quiet():
        if reads: theirs.load_lora_weights(written if kind == 'dora' else file)
        else:
            with pytest.raises(ValueError): theirs.load_lora_weights(file)
    assert not reads or same(theirs.transformer)
    if kind != 'dora': assert f"diffusers {'reads' if reads else 'cannot read'} {kind}" in written.read_text()
    assert same(apply_lora(ours, write_plain(base, file, dtype=torch.float32)[0]).transformer, .2)
    for work in (lambda: resize(file, tmp_path/'b.safetensors', rank=2), lambda: merge([file, file], tmp_path/'b.safetensors')):
        with pytest.raises(Problem, match='not a plain LoRA'): work()
