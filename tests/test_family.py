"""A family is one file: a new one, defined here, trains, resumes, draws and exports through the public functions; nothing else names a family"""
import ast, re
from pathlib import Path
from types import SimpleNamespace

import pytest, torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, PixArtTransformer2DModel

from automode.core import Problem, asset_path, quiet, read_json
from automode.data.images import to_image
from automode.generate import generate, load_pipeline
from automode.lora.files import read_lora_info
from automode.lora.layers import read_layers
from automode.models.family import FAMILIES, Family, ModuleNames, Targets, register
from automode.models.ldm import LDM
from automode.models.load import load_base
from automode.models.objectives import Flow
from automode.train import Log, Stopped, train

pytestmark = pytest.mark.xdist_group('family')                 # its tests share a model and a run
PACKAGE = Path(__file__).resolve().parents[1]/'automode'


# --- the family: a transformer with a flow objective, and prompts of any length

def encode_tokens(text_encoders, input_ids):
    hidden = text_encoders['text_encoder'](input_ids[:, 0])[0]
    ends = input_ids[:, 0].eq(text_encoders['text_encoder'].config.eos_token_id).int().argmax(1)          # the first of the padding
    return dict(hidden=hidden, mask=torch.arange(hidden.shape[1], device=hidden.device) <= ends[:, None])

def predict(transformer, noisy_latents, levels, condition):
    return transformer(noisy_latents, encoder_hidden_states=condition['hidden'].to(noisy_latents), timestep=1000*levels.float(),
                       encoder_attention_mask=condition['mask'], added_cond_kwargs=dict(resolution=None, aspect_ratio=None)).sample

def start_noise(pipeline, generators, height=None, width=None):
    return torch.cat([torch.randn(1, 4, (height or 64)//4, (width or 64)//4, generator=o) for o in generators])

class ToyPipeline(DiffusionPipeline):
    def __init__(self, vae, text_encoder, tokenizer, transformer, scheduler):
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, prompt, generator, latents=None, num_inference_steps=2, height=64, width=64, **others):
        x = start_noise(self, generator, height, width) if latents is None else latents
        condition = encode_tokens(dict(text_encoder=self.text_encoder), TOY.tokenize(dict(tokenizer=self.tokenizer), prompt))
        sigmas = torch.linspace(1, 0, num_inference_steps + 1)
        for now, later in zip(sigmas, sigmas[1:]): x = x + (later - now)*predict(self.transformer, x, now.expand(len(x)), condition)
        return SimpleNamespace(images=[to_image(o) for o in TOY.decode_latents(self.vae, x)])

TOY = Family(**LDM | dict(
    name='toy', title='Toy Flow', pipeline=ToyPipeline, make_pipeline=lambda parts: ToyPipeline(**parts), denoiser='transformer',
    denoiser_class=PixArtTransformer2DModel, is_denoiser=lambda o: isinstance(o, PixArtTransformer2DModel), check=lambda name, pipeline: None,
    train_scheduler=FlowMatchEulerDiscreteScheduler, draw_scheduler=FlowMatchEulerDiscreteScheduler, prediction_types=(),
    encode_tokens=encode_tokens, predict=predict, start_noise=start_noise, objective=lambda scheduler: Flow(shift=scheduler.config.shift),
    input_shapes=lambda transformer, tokens: dict(hidden=(tokens, transformer.config.caption_channels), mask=(tokens,)),
    read_folder=lambda path, dtype, settings: ToyPipeline.from_pretrained(path, torch_dtype=dtype), trains_text=False,
    targets=Targets(('to_q', 'to_k', 'to_v', 'to_out.0')), names=lambda transformer: ModuleNames('transformer'),
    metadata=lambda base: {'ss_base_model_version': 'toy', 'modelspec.architecture': 'toy/lora'}, versions=('toy',), comfy_nodes=None,
    resolution=lambda transformer, vae: 64, multiple=lambda transformer, vae: 8, blocks=lambda transformer: transformer.transformer_blocks,
    hub_tags=('toy',), learning_rate=1e-3, num_inference_steps=2, guidance_scale=1.))


# --- what it does through the public functions

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "A folder with a random model of the family, which is known while the tests of this file run"
    starter, folder = load_base('starter', 'cpu'), tmp_path_factory.mktemp('toy')/'base'
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2, sample_size=16,
                                           cross_attention_dim=16, caption_channels=starter.text_encoder.config.hidden_size)
    for p in transformer.parameters(): torch.nn.init.normal_(p, std=.1)                    # its last layer begins as zeros, and would hide everything
    register(TOY)
    with quiet(): ToyPipeline(starter.vae, starter.text_encoder, starter.tokenizer, transformer, FlowMatchEulerDiscreteScheduler(shift=3.)).save_pretrained(folder)
    yield folder
    del FAMILIES['toy']

SETTINGS = dict(token='tiantian', class_word='rabbit', max_train_steps=4, batch_size=2, save_every_steps=2, num_validation=1, validate_every_steps=2,
                log_every_steps=2, rank=4, alpha=8., device='cpu', seed=3, flip_p=.5)

@pytest.fixture(scope='module')
def run(toy): return train(asset_path('samples', 'style'), toy, toy.parent/'run', **SETTINGS)

def test_loads(toy):
    base = load_base(toy, 'cpu')
    assert repr(base).startswith('BaseModel(') and 'toy, 64x64 pixels, transformer of' in repr(base) and 'predicts flow' in repr(base)
    assert base.parts.keys() == {'transformer', 'text_encoder'} and base.unet is base.denoiser

def test_trains(run):
    assert run.config['learning_rate'] == 1e-3 and all(o['loss'] > 0 for o in run.metrics if 'loss' in o)
    assert len(list((run.folder/'samples').glob('*.png'))) == 3 and not (run.folder/'run.comfyui.json').exists()
    assert 'toy' in (run.folder/'README.md').read_text().split('---')[1]

def test_resumes_to_the_same_bits(toy, run, monkeypatch):
    poll = Log.poll
    monkeypatch.setattr(Log, 'poll', lambda self: poll(self) or self.trainer.global_step == 3)
    with pytest.raises(Stopped): train(asset_path('samples', 'style'), toy, toy.parent/'run2', name='run', **SETTINGS)
    monkeypatch.undo()
    again = train(asset_path('samples', 'style'), toy, toy.parent/'run2', name='run', **SETTINGS)
    assert again.lora.read_bytes() == run.lora.read_bytes()

def test_lora_is_read_back(toy, run):
    info, base = read_lora_info(run.lora), load_base(toy, 'cpu')
    assert (info['kind'], info['rank'], info['modelspec.architecture'], info['ss_base_model_version']) == ('lora', 4, 'toy/lora', 'toy')
    layers, _ = read_layers(run.lora, TOY.names(base.denoiser))
    assert len(layers) == info['layers'] == 2*8 and all(o.startswith('transformer.transformer_blocks.') and 'alpha' not in v for o, v in layers.items())
    pipeline = load_pipeline(toy, run.lora, device='cpu')
    assert len(pipeline.loaded_lora.kept) == len(layers)

def test_draws(toy, run):
    without, with_lora = (generate('a rabbit', toy, lora, lora_scale=50., device='cpu') for lora in (None, run.lora))
    assert without[0].size == (64, 64) and without[0].tobytes() != with_lora[0].tobytes()
    assert generate('a rabbit', toy, device='cpu')[0].tobytes() == without[0].tobytes()

@pytest.mark.parametrize('wrong, says', [(dict(noise_offset=.1), 'noise_offset'), (dict(zero_terminal_snr=True), 'zero_terminal_snr'), (dict(conv_rank=4), 'conv_rank'),
                                         (dict(train_text_encoder=True), 'train_text_encoder'), (dict(prediction_type='epsilon'), 'prediction_type')])
def test_refuses_what_a_flow_has_not(toy, wrong, says):
    with pytest.raises(Problem, match=says): train(asset_path('samples', 'style'), toy, toy.parent/'refused', **SETTINGS | wrong)
    assert not (toy.parent/'refused'/'config.json').exists()

def test_another_family_is_said(toy, run):
    with pytest.raises(Problem, match='a Toy Flow model; the base is a Stable Diffusion'): generate('a rabbit', 'starter', run.lora, device='cpu')


# --- nothing else names a family

def code_of(path):
    "The code of a module without comments, docstrings and texts for people, which may name the models that are supported"
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ' ' in node.value: node.value = ''
        body = getattr(node, 'body', None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant): body[0].value.value = ''
    return ast.unparse(tree)

OWN = *(f'models/{o}.py' for o in ('family', 'sd', 'sdxl', 'ldm', 'ldm_files', 'ldm_names', 'flow', 'sd3', 'flux', 'z_image', 'flux2', 'qwen_image',
                                    'krea2')), '_modidx.py'

@pytest.mark.parametrize('path', [o for o in sorted(PACKAGE.rglob('*.py')) if o.relative_to(PACKAGE).as_posix() not in OWN],
                         ids=lambda o: o.relative_to(PACKAGE).as_posix())
def test_names_no_family(path):
    found = [o for o in code_of(path).splitlines() if re.search(r'sdxl|\bsd_v[12]\b|\bsd3|flux|z_image|qwen_image|krea|text_encoder_2|\.down_blocks|StableDiffusion', o, re.I)]
    assert not found, found

def test_the_family_is_short():
    lines = Path(__file__).read_text().split('# --- ')[1].splitlines()
    assert len(lines) < 80
