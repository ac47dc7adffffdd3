"""The flow families: each one predicts, trains, resumes, draws and writes files as its pipeline in diffusers does (tiny models of the real classes)"""
import copy, json, warnings
from types import SimpleNamespace

import numpy as np, pytest, torch
from diffusers import DiffusionPipeline, FluxPipeline, Flux2KleinPipeline, QwenImagePipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from automode.check import check_dataset
from automode.core import Problem, asset_path, quiet
from automode.forecast.flops import count_step
from automode.generate import generate, load_pipeline
from automode.lora.adapters import add_adapter, target_layers
from automode.lora.files import read_lora_info
from automode.models.family import FAMILIES, get_family
from automode.models.load import as_pipeline, decode_latents, encode_images, encode_prompts, load_base, load_denoiser, predict
from automode.train import Log, Stopped, train
from tiny_flow import MAKERS, calls_of, tiny_flow

each = pytest.mark.parametrize('name', MAKERS)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A function that makes the tiny model of a family once, and loads it"
    folder, bases = tmp_path_factory.mktemp('flow'), {}
    def get(name):
        if name not in bases: bases[name] = load_base(tiny_flow(name, folder/name), 'cpu')
        return bases[name]
    return get

def random_step(base, n=2):
    "Latents, noise, sigmas and prompt embeddings of two images"
    torch.manual_seed(0)
    channels = base.family.latent_channels(base.denoiser)
    shape = n, channels, 32//base.vae_scale, 48//base.vae_scale
    return torch.randn(shape), torch.randn(shape), torch.tensor([.2, .7])[:n], encode_prompts(base, ['a red apple', 'cat'][:n])


# --- one step

PACK = dict(sd3=lambda x: x, flux=lambda x: FluxPipeline._pack_latents(x, *x.shape), z_image=lambda x: [o[:, None] for o in x],
            flux2=Flux2KleinPipeline._pack_latents, qwen_image=lambda x: QwenImagePipeline._pack_latents(x, *x.shape),
            krea2=lambda x: QwenImagePipeline._pack_latents(x, *x.shape))

def true_velocity(name, latents):
    "A denoiser that finds the velocity from its inputs: noise minus latents, in the layout and the sign of the family"
    def forward(hidden_states=None, timestep=None, *args, **others):
        noisy, clean = others.get('x', hidden_states), PACK[name](latents)
        if name == 'z_image': return SimpleNamespace(sample=[-(a - b)/(1 - t) for a, b, t in zip(noisy, clean, timestep)])
        sigma = (timestep/1000 if name == 'sd3' else timestep).view(-1, *[1]*(noisy.dim() - 1))
        return SimpleNamespace(sample=(noisy - clean)/sigma)
    return forward

@each
def test_true_velocity_has_no_loss(made, name, monkeypatch):
    base = made(name)
    latents, noise, levels, condition = random_step(base)
    monkeypatch.setattr(base.denoiser, 'forward', true_velocity(name, latents))
    prediction = predict(base, base.objective.add_noise(latents, noise, levels), levels, condition)
    assert torch.allclose(prediction, base.objective.target(latents, noise, levels), atol=1e-5)

@each
def test_batch_does_not_change_a_prediction(made, name):
    base = made(name)
    latents, noise, levels, condition = random_step(base)
    with torch.no_grad():
        both = predict(base, latents, levels, condition)
        for n, prompt in enumerate(['a red apple', 'cat']):
            alone = predict(base, latents[n:n + 1], levels[n:n + 1], encode_prompts(base, [prompt]))
            assert torch.allclose(both[n], alone[0], atol=1e-5)

@each
def test_autoencoder_in_the_units_of_the_pipeline(made, name):
    "Latents that are decoded, and encoded again, are those that the pipeline decodes to the same image"
    base = made(name)
    images = torch.rand(1, 3, 32, 48)*2 - 1
    mean, std = encode_images(base, images)
    assert mean.shape[1:] == (base.family.latent_channels(base.denoiser), 32//base.vae_scale, 48//base.vae_scale) and std.shape == mean.shape
    pipeline, moments = as_pipeline(base), {}
    forward = base.vae.decode
    base.vae.decode = lambda z, *args, **others: (moments.update(z=z), forward(z, *args, **others))[1]
    try:
        decode_latents(base, mean)
        ours = moments['z']
        packed = mean if name in ('sd3', 'z_image') else PACK[name](mean)
        given = mean if name == 'flux2' else packed
        pipeline.set_progress_bar_config(disable=True)
        with torch.no_grad(), quiet():
            pipeline(prompt='x', latents=given, height=32, width=48, num_inference_steps=1, callback_on_step_end=lambda pipe, n, t, values: dict(latents=packed))
    finally: del base.vae.decode
    assert torch.allclose(ours, moments['z'], atol=1e-5)

@each
def test_work_is_counted(made, name):
    base = made(name)
    denoiser = copy.deepcopy(base.denoiser)
    add_adapter(denoiser, 4)
    step = count_step(denoiser, (64//base.vae_scale, 64//base.vae_scale), 40, base.family)
    assert step.backward.flops > step.forward.flops > 0


def test_transformer_is_loaded_later(made):
    "Without weights until then, with the same weights afterwards; where a weight is missing, that is an error"
    whole, base = made('z_image'), load_base(made('z_image').name, 'cpu', later=True)
    assert base.denoiser.device.type == 'meta' and base.device.type == 'cpu' and repr(base) == repr(whole)
    condition = encode_prompts(base, ['a red apple'])
    load_denoiser(base)
    assert torch.equal(condition['hidden'], encode_prompts(whole, ['a red apple'])['hidden'])
    for a, b in zip(base.denoiser.parameters(), whole.denoiser.parameters()): assert torch.equal(a, b) and not a.requires_grad
    assert not load_base('starter', 'cpu', later=True).later

def test_missing_weights_of_a_transformer(tmp_path):
    folder = tiny_flow('sd3', tmp_path/'sd3')
    file = next((folder/'transformer').glob('*.safetensors'))
    save_file(dict([*load_file(file).items()][1:]), file)
    base = load_base(folder, 'cpu', later=True)
    with pytest.raises(Problem, match='lacks 1 weights'): load_denoiser(base)


# --- a run

SETTINGS = dict(token='tiantian', class_word='rabbit', max_train_steps=4, batch_size=2, save_every_steps=2, num_validation=1, validate_every_steps=2,
                log_every_steps=2, rank=4, alpha=8., device='cpu', seed=3, flip_p=.5, resolution=64)

@pytest.fixture(scope='module')
def runs(made, tmp_path_factory):
    "A function that trains a family once, with a stop and a resume in another folder"
    folder, found = tmp_path_factory.mktemp('flow_runs'), {}
    def get(name):
        if name in found: return found[name]
        base = made(name).name
        whole = train(asset_path('samples', 'style'), base, folder/name, **SETTINGS)
        with pytest.MonkeyPatch.context() as patch:
            poll = Log.poll
            patch.setattr(Log, 'poll', lambda self: poll(self) or self.trainer.global_step == 3)
            with pytest.raises(Stopped): train(asset_path('samples', 'style'), base, folder/'again'/name, name=name, **SETTINGS)
        found[name] = whole, train(asset_path('samples', 'style'), base, folder/'again'/name, name=name, **SETTINGS)
        return found[name]
    return get

@each
def test_resumes_to_the_same_bits(runs, name):
    whole, resumed = runs(name)
    assert whole.lora.read_bytes() == resumed.lora.read_bytes() and whole.config['learning_rate'] == get_family(name).learning_rate

def test_timestep_sampling(made, runs, tmp_path, capsys):
    "It changes the noise levels, is kept on resume, and is refused for other values and other models"
    base, plain = made('z_image').name, runs('z_image')[0]
    run = train(asset_path('samples', 'style'), base, tmp_path/'run', name='z_image', **SETTINGS | dict(timestep_sampling='shift=1.5'))
    assert run.lora.read_bytes() != plain.lora.read_bytes() and run.config['timestep_sampling'] == 'shift=1.5'
    assert 'min_snr_gamma is not used' in capsys.readouterr().out
    with pytest.raises(Problem, match="timestep_sampling='shift=1.5', not 'uniform'"):
        train(asset_path('samples', 'style'), base, tmp_path/'run', name='z_image', **SETTINGS | dict(timestep_sampling='uniform'))
    with pytest.raises(Problem, match='a setting of flow models'): train(asset_path('samples', 'style'), 'starter', tmp_path/'sd', timestep_sampling='uniform', token='a')

@each
def test_diffusers_reads_the_lora(made, runs, name):
    "Every layer arrives, and the prediction changes as much as with the LoRA in automode"
    base, (run, _) = made(name), runs(name)
    info = read_lora_info(run.lora)
    assert info['layers'] == len(target_layers(base.denoiser)) and 'lora_adapter_metadata' not in info
    theirs = DiffusionPipeline.from_pretrained(base.name)
    with quiet(): theirs.load_lora_weights(run.lora)
    arrived = {o for o in theirs.transformer.state_dict() if o.endswith('lora_A.default_0.weight')}
    ours = load_pipeline(base.name, run.lora, device='cpu')
    settings = base.family.draw_arguments(ours, 1, 1.)
    (_, first), (_, second), (_, without) = (calls_of(o, **settings)[0] for o in (theirs, ours, as_pipeline(base)))
    first, second, without = (torch.stack([*o]) for o in (first, second, without))
    assert len(arrived) == info['layers'] and (second - without).abs().max() > 1e-6
    assert (first - second).abs().max() <= 1e-4*(second - without).abs().max() + 1e-6

@each
def test_draws(made, runs, tmp_path, name):
    base, (run, _) = made(name), runs(name)
    settings = dict(base=base.name, device='cpu', resolution=(48, 32), num_inference_steps=2, num_images=2)
    without, drawn = (generate('a rabbit', lora=o, lora_scale=50., out=tmp_path/str(bool(o)), **settings) for o in (None, run.lora))
    one = generate('a rabbit', **settings | dict(num_images=1, seed=1))[0]
    assert without[0].size == (48, 32) and without[0].tobytes() != drawn[0].tobytes()
    assert np.abs(np.asarray(one, int) - np.asarray(without[1], int)).max() <= 1
    written = sorted((tmp_path/'True').glob('*.png'))
    assert len(written) == 2 and 'Steps: 2, Sampler: Euler' in Image.open(written[0]).text['parameters']

@each
def test_negative_prompt(made, name):
    "It changes the latents of the second step, except in FLUX.1, which has none"
    base, found = made(name), []
    pipeline = as_pipeline(base)
    for prompt in ('', 'blue'):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            settings = base.family.draw_arguments(pipeline, 1, 4., prompt)
        latents = calls_of(pipeline, **settings)[-1][0]
        found.append(torch.stack([*latents.get('x', latents.get('hidden_states'))]))
    assert torch.equal(*found) == (name == 'flux') == any('no negative prompt' in str(o.message) for o in caught)

@each
def test_files_of_a_run(runs, name):
    run, family = runs(name)[0], get_family(name)
    head = (run.folder/'README.md').read_text().split('---')[1]
    assert all(o in head for o in family.hub_tags) and len([*(run.folder/'samples').glob('*.png')]) == 3
    graph = json.loads(run.lora.with_suffix('.comfyui.json').read_text())
    assert {o['class_type'] for o in graph.values()} >= {'UNETLoader', 'LoraLoaderModelOnly', 'VAELoader', 'KSampler'}

@each
def test_checks_prompts(made, name, tmp_path):
    "The check of a folder counts the tokens that the family reads"
    Image.new('RGB', (64, 64), 'red').save(tmp_path/'a.png')
    (tmp_path/'a.txt').write_text('word '*1200)
    found = check_dataset(tmp_path, base=made(name).name)
    assert found.room == get_family(name).counts[1]

@each
@pytest.mark.parametrize('wrong, says', [(dict(noise_offset=.1), 'noise_offset'), (dict(conv_rank=4), 'conv_rank'), (dict(train_text_encoder=True), 'train_text_encoder')])
def test_refuses_settings(made, tmp_path, name, wrong, says):
    with pytest.raises(Problem, match=says): train(asset_path('samples', 'style'), made(name).name, tmp_path/'refused', **SETTINGS | wrong)

@each
def test_refuses_float16(made, name):
    if name == 'sd3': assert load_base(made(name).name, 'cpu', 'float16').denoiser.dtype == torch.float16
    else:
        with pytest.raises(Problem, match='overflow in float16'): load_base(made(name).name, 'cpu', 'float16')

def test_another_family_is_refused(made, runs):
    with pytest.raises(Problem, match='FLUX.1'): generate('a rabbit', made('sd3').name, runs('flux')[0].lora, device='cpu')

def test_every_transformer_family_is_tested():
    assert {o for o in FAMILIES if get_family(o).denoiser == 'transformer'} == {*MAKERS}
