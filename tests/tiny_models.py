"""Small random base models of the real classes, as a diffusers folder and as a single file in the original layout

    folder = tiny_base('sdxl', tmp/'sdxl')                       a diffusers folder: 'sd_v1', 'sd_v2' or 'sdxl'
    as_single_file(folder, tmp/'sdxl.safetensors')               the same weights under the names of CompVis and Stability AI
    as_single_file(folder, tmp/'sdxl.ckpt', wrap=lightning)      as PyTorch-Lightning writes it, with a class of its own inside
"""
import re, shutil, sys, types
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from automode.core import asset_path, quiet

FAMILIES = 'sd_v1', 'sd_v2', 'sdxl'


# --- the models

def tiny_tokenizer(pad_token='<|endoftext|>'):
    "The starter's tokenizer: 2400 tokens, 24 a prompt"
    return CLIPTokenizer.from_pretrained(asset_path('starter_base', 'tokenizer'), pad_token=pad_token)

def tiny_text_encoder(tokenizer, width, act, kind=CLIPTextModel, layers=2):
    "A text encoder with a head for each 64 of its width, as all of them have"
    return kind(CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length, hidden_size=width, intermediate_size=4*width,
        num_hidden_layers=layers, num_attention_heads=max(1, width//64), hidden_act=act, projection_dim=width,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))

def tiny_unet(family, cross_attention_dim, pooled=0, sample_size=8):
    "A unet with two sizes of feature maps"
    channels, xl = (64, 128), family == 'sdxl'
    where = ('DownBlock2D', 'CrossAttnDownBlock2D') if xl else ('CrossAttnDownBlock2D', 'DownBlock2D')
    extra = dict(addition_embed_type='text_time', addition_time_embed_dim=8, projection_class_embeddings_input_dim=pooled + 6*8,
                 transformer_layers_per_block=(1, 2)) if xl else {}
    return UNet2DConditionModel(
        sample_size=sample_size, block_out_channels=channels, layers_per_block=1, cross_attention_dim=cross_attention_dim,
        down_block_types=where, up_block_types=tuple(o.replace('Down', 'Up') for o in where[::-1]),
        attention_head_dim=8 if family == 'sd_v1' else tuple(o//64 for o in channels), use_linear_projection=family != 'sd_v1', **extra)

def tiny_vae(family):
    "A vae that makes one latent of 4 x 4 pixels"
    return AutoencoderKL(block_out_channels=(32, 32, 64), down_block_types=('DownEncoderBlock2D',)*3, latent_channels=4,
                         up_block_types=('UpDecoderBlock2D',)*3, sample_size=32, scaling_factor=.13025 if family == 'sdxl' else .18215)

def tiny_base(family, folder, prediction_type=None, seed=0, tokenizer=None):
    "Write a random model of `family` as a diffusers folder; `tokenizer` makes one for a pad token"
    xl, tokenizer = family == 'sdxl', tokenizer or tiny_tokenizer
    prediction_type = prediction_type or ('v_prediction' if family == 'sd_v2' else 'epsilon')
    torch.manual_seed(seed)
    scheduler = DDIMScheduler(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear', clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type)
    first = tokenizer('!') if family == 'sd_v2' else tokenizer()
    parts = dict(vae=tiny_vae(family), tokenizer=first, scheduler=scheduler,
                 text_encoder=tiny_text_encoder(first, 64, 'gelu' if family == 'sd_v2' else 'quick_gelu'))
    if xl:
        second = tokenizer('!')
        parts |= dict(tokenizer_2=second, text_encoder_2=tiny_text_encoder(second, 128, 'gelu', CLIPTextModelWithProjection))
    parts['unet'] = tiny_unet(family, 64 + 128*xl, 128*xl)
    with quiet():
        pipeline = StableDiffusionXLPipeline(**parts) if xl else StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        pipeline.save_pretrained(folder)
    return Path(folder)


# --- the original layout

RESNET = {'norm1': 'in_layers.0', 'conv1': 'in_layers.2', 'norm2': 'out_layers.0', 'conv2': 'out_layers.3',
          'time_emb_proj': 'emb_layers.1', 'conv_shortcut': 'skip_connection'}
AROUND = {'time_embedding.linear_1': 'time_embed.0', 'time_embedding.linear_2': 'time_embed.2', 'conv_in': 'input_blocks.0.0',
          'conv_norm_out': 'out.0', 'conv_out': 'out.2', 'add_embedding.linear_1': 'label_emb.0.0', 'add_embedding.linear_2': 'label_emb.0.2'}

def unet_names(unet):
    "Our names of a unet's weights -> the original ones"
    a, found = unet.config.layers_per_block + 1, {}
    for name in unet.state_dict():
        kind, _, rest = name.partition('.')
        if match := re.match(r'(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)', name):
            way, i, what, j, rest = match.groups()
            where = f'input_blocks.{int(i)*a + int(j) + 1}' if way == 'down' else f'output_blocks.{int(i)*a + int(j)}'
            kind = f'{where}.{int(what == "attentions")}'
        elif match := re.match(r'mid_block\.(resnets|attentions)\.(\d+)\.(.*)', name):
            what, j, rest = match.groups()
            kind = f'middle_block.{1 if what == "attentions" else 2*int(j)}'
        elif match := re.match(r'down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)', name):
            kind, rest, what = f'input_blocks.{(int(match[1]) + 1)*a}.0.op', match[2], ''
        elif match := re.match(r'up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)', name):
            after = 1 + ('CrossAttn' in unet.config.up_block_types[int(match[1])])
            kind, rest, what = f'output_blocks.{int(match[1])*a + a - 1}.{after}.conv', match[2], ''
        else:
            part, _, rest = name.rpartition('.')
            kind, what = AROUND[part], ''
        if what == 'resnets':
            part, _, end = rest.partition('.')
            rest = f'{RESNET[part]}.{end}'
        found[name] = f'model.diffusion_model.{kind}.{rest}'
    return found

def original_vae(vae):
    "The weights of a vae under their original names"
    last, state = len(vae.config.block_out_channels) - 1, {}
    for name, value in vae.state_dict().items():
        new = re.sub(r'up_blocks\.(\d+)', lambda m: f'up.{last - int(m[1])}', name)
        new = re.sub(r'down_blocks\.(\d+)', r'down.\1', new)
        new = re.sub(r'mid_block\.resnets\.(\d+)', lambda m: f'mid.block_{int(m[1]) + 1}', new)
        for old, other in (('.resnets.', '.block.'), ('.downsamplers.0', '.downsample'), ('.upsamplers.0', '.upsample'),
                           ('mid_block.attentions.0', 'mid.attn_1'), ('conv_norm_out', 'norm_out'), ('conv_shortcut', 'nin_shortcut')):
            new = new.replace(old, other)
        if 'attn_1' in new:
            for old, other in (('group_norm', 'norm'), ('to_q', 'q'), ('to_k', 'k'), ('to_v', 'v'), ('to_out.0', 'proj_out')):
                new = new.replace(f'.{old}.', f'.{other}.')
            if value.ndim == 2: value = value[:, :, None, None]
        state[f'first_stage_model.{new}'] = value
    return state

def original_clip(text_encoder, prefix):
    "The weights of OpenAI's CLIP: transformers' own names"
    return {f'{prefix}text_model.{k.removeprefix("text_model.")}': v for k, v in text_encoder.state_dict().items()}

def original_openclip(text_encoder, prefix):
    "The weights of an OpenCLIP model, which keeps queries, keys and values in one matrix"
    state, qkv = {}, {}
    names = {'embeddings.token_embedding.weight': 'token_embedding.weight', 'embeddings.position_embedding.weight': 'positional_embedding',
             'encoder.layers.': 'transformer.resblocks.', 'final_layer_norm.': 'ln_final.', 'layer_norm1': 'ln_1', 'layer_norm2': 'ln_2',
             '.fc1.': '.c_fc.', '.fc2.': '.c_proj.', '.self_attn.': '.attn.'}
    for name, value in text_encoder.state_dict().items():
        new = name.removeprefix('text_model.')
        for old, other in names.items(): new = new.replace(old, other)
        if match := re.fullmatch(r'(.*attn\.)([qkv])_proj\.(weight|bias)', new):
            qkv.setdefault(f'{match[1]}in_proj_{match[3]}', {})[match[2]] = value
        elif new == 'text_projection.weight': state[f'{prefix}text_projection'] = value.T.contiguous()
        else: state[prefix + new] = value
    return state | {prefix + k: torch.cat([v[o] for o in 'qkv']) for k, v in qkv.items()}

def original_state(unet, vae, text_encoder, text_encoder_2=None):
    "The weights of a whole model as the original code of its family names them"
    weights = unet.state_dict()
    state = {new: weights[old] for old, new in unet_names(unet).items()} | original_vae(vae)
    if text_encoder_2 is not None:
        return state | original_clip(text_encoder, 'conditioner.embedders.0.transformer.') | original_openclip(
            text_encoder_2, 'conditioner.embedders.1.model.')
    if text_encoder.config.hidden_act == 'gelu': return state | original_openclip(text_encoder, 'cond_stage_model.model.')
    return state | original_clip(text_encoder, 'cond_stage_model.transformer.')


# --- files

@contextmanager
def lightning_module():
    "Within the block there is a `pytorch_lightning` with a `ModelCheckpoint`, as far as pickle can tell"
    names = ['pytorch_lightning', 'pytorch_lightning.callbacks', 'pytorch_lightning.callbacks.model_checkpoint']
    modules = {o: types.ModuleType(o) for o in names}
    made = type('ModelCheckpoint', (), {'__module__': names[-1]})
    modules[names[-1]].ModelCheckpoint = made
    sys.modules.update(modules)
    try: yield made
    finally:
        for o in names: del sys.modules[o]

def lightning(state):
    "What sd-v1-4.ckpt holds around its weights: where the training stood"
    import numpy as np
    checkpoint = sys.modules['pytorch_lightning.callbacks.model_checkpoint'].ModelCheckpoint
    return {'epoch': 3, 'global_step': 470000, 'pytorch-lightning_version': '1.4.2', 'state_dict': state,
            'callbacks': {checkpoint: {'monitor': 'val/loss', 'best_model_score': np.float32(.25), 'kept': checkpoint()}},
            'lr_schedulers': [{'base_lrs': [np.float64(1e-4)], '_step_count': 470001}], 'optimizer_states': []}

def as_single_file(folder, path, wrap=None, metadata=None):
    "Write the diffusers model in `folder` as one file in the original layout, by suffix; its small tokenizers go into a folder beside it"
    folder, path = Path(folder), Path(path)
    with quiet():
        xl = (folder/'text_encoder_2').exists()
        load = lambda kind, part: kind.from_pretrained(folder/part)
        state = original_state(load(UNet2DConditionModel, 'unet'), load(AutoencoderKL, 'vae'), load(CLIPTextModel, 'text_encoder'),
                               load(CLIPTextModelWithProjection, 'text_encoder_2') if xl else None)
    state = {k: v.detach().clone() for k, v in state.items()}
    if path.suffix == '.safetensors':
        from safetensors.torch import save_file
        save_file(state, path, metadata)
    else:
        with lightning_module(): torch.save(wrap(state) if wrap else state, path)
    for part in ('tokenizer', 'tokenizer_2'):
        if (folder/part).exists(): shutil.copytree(folder/part, path.with_suffix('')/part, dirs_exist_ok=True)
    return path
