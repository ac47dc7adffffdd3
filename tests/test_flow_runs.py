"""Flow models in runs as people make them: killed and resumed, by several processes, sharded, with every kind of adapter (tiny models of the real classes)

One family stands for the six in the tests of processes; `FLOW_FAMILIES=all` runs these for every family, which takes some ten minutes
"""
import copy, os, shutil, signal, sys

import pytest, torch
from PIL import Image
from safetensors.torch import load_file, save_file

from automode.core import Problem, asset_path, quiet
from automode.data.images import to_pixel_values
from automode.generate import apply_lora, load_pipeline
from automode.inputs.examples import Example, assign, bucket_multiple, training_image
from automode.inputs.latents import make_cache
from automode.lora.adapters import add_adapter, target_layers
from automode.lora.files import read_lora_info, save_diffusers_lora, save_lora, write_plain
from automode.lora.tools import info, info_text, merge, merge_into, resize
from automode.models.load import as_pipeline, encode_prompts, load_base
from automode.training.config import TrainConfig
from automode.training.loss import Batch, Randomness, training_loss
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

LAUNCH, SHARDED = [sys.executable, '-m', 'accelerate.commands.launch'], ['--use_fsdp', '--fsdp_version', '2']
TWO = ['--num_processes', 2, '--main_process_port', 0, '-m', 'automode.cli']

@some
@pytest.mark.parametrize('kind', [['--multi_gpu'], SHARDED], ids=['ddp', 'fsdp'])
def test_two_processes_are_as_good_as_one(place, one, name, kind):
    "Each does half of a step, with the whole transformer or with half of it"
    (whole, args), out = one(name), f'{name}-two{len(kind)}'
    said = run(*LAUNCH, *kind, *TWO, 'train', *changed(args, batch_size=1), '--out', out, cwd=place)
    assert ('each of 2 processes holds a part of the denoiser' in said) == ('--use_fsdp' in kind)
    assert alike(whole, place/out)

def test_dora(place, one):
    "A run says what diffusers does not read, writes no file for A1111, and refuses to divide the transformer, before the first step"
    args = [*changed(one('z_image')[1], max_train_steps=2, batch_size=1), '--use_dora', '--out', 'dora']
    assert 'use_dora must be left out with --use_fsdp' in run(*LAUNCH, *SHARDED, *TWO, 'train', *args, cwd=place, code=1)
    assert 'diffusers ignores the DoRA magnitudes' in train(*args, cwd=place)
    assert (place/'dora/fox.safetensors').exists() and not (place/'dora/a1111').exists()


# --- the loss

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

def sd3_loss(p, x, texts, sigma, noise, sample):
    latents = (sample(p.vae.encode(x).latent_dist) - p.vae.config.shift_factor)*p.vae.config.scaling_factor
    hidden, _, pooled, _ = p.encode_prompt(texts, texts, texts, do_classifier_free_guidance=False)
    noisy = (1 - sigma)*latents + sigma*noise
    return p.transformer(hidden_states=noisy, timestep=1000*sigma.flatten(), encoder_hidden_states=hidden, pooled_projections=pooled,
                         return_dict=False)[0] - (noise - latents)

def flux_loss(p, x, texts, sigma, noise, sample):
    latents = (sample(p.vae.encode(x).latent_dist) - p.vae.config.shift_factor)*p.vae.config.scaling_factor
    hidden, pooled, text_ids = p.encode_prompt(texts, texts)
    noisy, (n, c, h, w) = (1 - sigma)*latents + sigma*noise, latents.shape
    found = p.transformer(hidden_states=p._pack_latents(noisy, n, c, h, w), timestep=sigma.flatten(), guidance=torch.ones(n), pooled_projections=pooled,
                          encoder_hidden_states=hidden, txt_ids=text_ids, return_dict=False,
                          img_ids=p._prepare_latent_image_ids(n, h//2, w//2, 'cpu', torch.float32))[0]
    return p._unpack_latents(found, x.shape[-2], x.shape[-1], p.vae_scale_factor) - (noise - latents)

def z_image_loss(p, x, texts, sigma, noise, sample):
    latents = (p.vae.encode(x).latent_dist.mode() - p.vae.config.shift_factor)*p.vae.config.scaling_factor
    hidden, _ = p.encode_prompt(texts, do_classifier_free_guidance=False)
    noisy = (1 - sigma)*latents + sigma*noise
    found = p.transformer(list(noisy.unsqueeze(2).unbind()), (1000 - 1000*sigma.flatten())/1000, hidden, return_dict=False)[0]
    return -torch.stack(found).squeeze(2) - (noise - latents)

def flux2_loss(p, x, texts, sigma, noise, sample):
    latents, bn = p._patchify_latents(p.vae.encode(x).latent_dist.mode()), p.vae.bn
    latents = (latents - bn.running_mean.view(1, -1, 1, 1))/(bn.running_var.view(1, -1, 1, 1) + p.vae.config.batch_norm_eps).sqrt()
    hidden, text_ids = p.encode_prompt(texts, text_encoder_out_layers=(9, 18, 27))
    noisy, ids = (1 - sigma)*latents + sigma*noise, p._prepare_latent_ids(latents)
    found = p.transformer(hidden_states=p._pack_latents(noisy), timestep=sigma.flatten(), guidance=None, encoder_hidden_states=hidden, txt_ids=text_ids,
                          img_ids=ids, return_dict=False)[0]
    return torch.stack([*p._unpack_latents_with_ids(found, ids)]).reshape(latents.shape) - (noise - latents)

def of_qwen(p, x, sample):
    "Latents of the video vae, normalized by channel"
    mean, std = (torch.tensor(p.vae.config[o]).view(1, -1, 1, 1) for o in ('latents_mean', 'latents_std'))
    return (sample(p.vae.encode(x.unsqueeze(2)).latent_dist) - mean)/std

def qwen_image_loss(p, x, texts, sigma, noise, sample):
    latents, (hidden, mask) = of_qwen(p, x, sample), p.encode_prompt(texts)
    noisy, (n, c, h, w) = (1 - sigma)*latents + sigma*noise, latents.shape
    found = p.transformer(hidden_states=p._pack_latents(noisy, n, c, h, w), timestep=sigma.flatten(), guidance=None, encoder_hidden_states=hidden,
                          encoder_hidden_states_mask=mask, img_shapes=[[(1, h//2, w//2)]]*n, return_dict=False)[0]
    return p._unpack_latents(found, x.shape[-2], x.shape[-1], p.vae_scale_factor)[:, :, 0] - (noise - latents)

def krea2_loss(p, x, texts, sigma, noise, sample):
    latents, (hidden, mask) = of_qwen(p, x, sample), p.encode_prompt(texts)
    noisy, (n, c, h, w) = (1 - sigma)*latents + sigma*noise, latents.shape
    found = p.transformer(hidden_states=p._pack_latents(noisy, n, c, h, w), timestep=sigma.flatten(), encoder_hidden_states=hidden,
                          encoder_attention_mask=mask, position_ids=p.prepare_position_ids(hidden.shape[1], h//2, w//2, 'cpu'), return_dict=False)[0]
    return p._unpack_latents(found, x.shape[-2], x.shape[-1])[:, :, 0] - (noise - latents)

@each
def test_loss_is_that_of_the_example_script(made, name, place):
    "From images and captions to the loss, on given noise and sigmas, against the step of diffusers' script (SD3 without preconditioning, guidance 1)"
    base, pipeline, _ = made(name)
    examples = assign([Example(o, o.with_suffix('.txt').read_text()) for o in sorted((place/'images').glob('*.png'))[1:4:2]], 64, bucket_multiple(base))
    cache = make_cache(base, examples)
    x = torch.stack([to_pixel_values(training_image(o)) for o in examples])
    torch.manual_seed(0)
    posterior, noise = torch.randn(2, 2, *cache.mean[0].shape[2:])
    sigma, off = torch.tensor([.3, .8]), torch.zeros(2)
    randomness = Randomness(posterior, noise, sigma, off.long(), off, off.bool())
    sample = lambda o: o.mean.view(posterior.shape) + o.std.view(posterior.shape)*posterior        # without the frames of a video
    with torch.no_grad():
        ours = training_loss(base, cache, Batch(0, torch.arange(2)), randomness, TrainConfig())
        error = globals()[f'{name}_loss'](pipeline, x, [o.prompt for o in examples], sigma.view(-1, 1, 1, 1), noise, sample)
    assert torch.allclose(ours, error.square().mean((1, 2, 3)), rtol=1e-5) and ours.min() > .1


# --- kinds of adapters

KINDS = dict(dora=dict(use_dora=True), loha=dict(kind='loha'), lokr=dict(kind='lokr'))
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

@each
def test_merges_into_a_base(made, name, tmp_path):
    "The new base has the weights of the old one, and in the transformer the change of the adapter"
    base, ours, _ = made(name)
    plain = base.denoiser
    base.denoiser = copy.deepcopy(plain)
    for p in add_adapter(base.denoiser, 4, 8.): torch.nn.init.normal_(p, std=.1)
    try: file = save_lora(tmp_path/'a.safetensors', base, dtype=torch.float32)
    finally: base.denoiser = plain
    merged = load_base(merge_into(base.name, [file], tmp_path/'merged'), 'cpu')
    wanted = dict(base.parts, vae=base.vae) | {base.family.denoiser: apply_lora(ours, file).transformer}
    for part, model in dict(merged.parts, vae=merged.vae).items():
        weights = wanted[part].state_dict()
        assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items()), part

@pytest.mark.parametrize('name', ['flux', 'z_image'])
def test_weights_under_names_of_clip_are_refused(made, name, tmp_path):
    "Earlier versions merged so; transformers would initialize the text encoder at random without a word"
    folder = shutil.copytree(made(name)[0].name, tmp_path/'base')
    file = next(folder.glob('text_encoder_2/*.safetensors' if name == 'flux' else 'text_encoder/*.safetensors'))
    save_file({f'text_model.{k}': v for k, v in load_file(file).items()}, file, dict(format='pt'))
    with pytest.raises(Problem, match='under the names of a CLIP text encoder'): load_base(folder, 'cpu')
