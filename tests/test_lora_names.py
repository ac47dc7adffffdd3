"""LoRA files of the flow families under the names of other programs: each has the effect of the file in diffusers' names (tiny models of the real classes)

The tables below are written by hand from what the programs write, not imported, and rows are counted in the weights of the model
"""
import json
from itertools import islice

import pytest, torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from automode.core import Problem, quiet
from automode.generate import apply_lora, load_pipeline
from automode.lora.files import read_lora_info
from automode.lora.layers import family_of_file, read_layers, weight_delta
from automode.lora.tools import convert, info, merge, resize
from automode.models.load import as_pipeline, encode_prompts, load_base, predict
from tiny_flow import MAKERS, tiny_flow

each = pytest.mark.parametrize('name', MAKERS)
RANK, ALPHA = 2, 3.


# --- what other programs call the layers of one block, and the layers outside of blocks; `~` has its halves swapped

def flux_double(stream, attention, out, feed, norm=None):
    found = {f'{stream}_attn.qkv': attention, f'{stream}_attn.proj': out, f'{stream}_mlp.0': feed[0], f'{stream}_mlp.2': feed[1]}
    return found | ({f'{stream}_mod.lin': f'{norm}.linear'} if norm else {})

IMAGE, TEXT = 'attn.to_q attn.to_k attn.to_v', 'attn.add_q_proj attn.add_k_proj attn.add_v_proj'
FEED = lambda o: (f'{o}.net.0.proj', f'{o}.net.2')
FEED2 = lambda o: (f'{o}.linear_in', f'{o}.linear_out')
Z = {'attention.qkv': 'attention.to_q attention.to_k attention.to_v', 'attention.out': 'attention.to_out.0',
     **{o: o for o in ('feed_forward.w1', 'feed_forward.w2', 'feed_forward.w3')}}
KREA = {'attn.wq': 'attn.to_q', 'attn.wk': 'attn.to_k', 'attn.wv': 'attn.to_v', 'attn.wo': 'attn.to_out.0', 'attn.gate': 'attn.to_gate',
        'mlp.gate': 'ff.gate', 'mlp.up': 'ff.up', 'mlp.down': 'ff.down'}
QWEN = ('img_mod.1', 'txt_mod.1', *IMAGE.split(), 'attn.to_out.0', *TEXT.split(), 'attn.to_add_out', *FEED('img_mlp'), *FEED('txt_mlp'))
BLOCKS = dict(
    sd3={('joint_blocks', 'transformer_blocks', 2): {
        'x_block.attn.qkv': IMAGE, 'x_block.attn.proj': 'attn.to_out.0', 'x_block.mlp.fc1': 'ff.net.0.proj', 'x_block.mlp.fc2': 'ff.net.2',
        'x_block.attn2.qkv': 'attn2.to_q attn2.to_k attn2.to_v', 'x_block.attn2.proj': 'attn2.to_out.0', 'x_block.adaLN_modulation.1': 'norm1.linear',
        'context_block.attn.qkv': TEXT, 'context_block.attn.proj': 'attn.to_add_out', 'context_block.mlp.fc1': 'ff_context.net.0.proj',
        'context_block.mlp.fc2': 'ff_context.net.2', 'context_block.adaLN_modulation.1': 'norm1_context.linear'}},
    flux={('double_blocks', 'transformer_blocks', 2): flux_double('img', IMAGE, 'attn.to_out.0', FEED('ff'), 'norm1') |
                                                      flux_double('txt', TEXT, 'attn.to_add_out', FEED('ff_context'), 'norm1_context'),
          ('single_blocks', 'single_transformer_blocks', 2): {'linear1': f'{IMAGE} proj_mlp', 'linear2': 'proj_out', 'modulation.lin': 'norm.linear'}},
    flux2={('double_blocks', 'transformer_blocks', 2): flux_double('img', IMAGE, 'attn.to_out.0', FEED2('ff')) |
                                                       flux_double('txt', TEXT, 'attn.to_add_out', FEED2('ff_context')),
           ('single_blocks', 'single_transformer_blocks', 2): {'linear1': 'attn.to_qkv_mlp_proj', 'linear2': 'attn.to_out'}},
    z_image={(o, o, 2): Z for o in ('layers', 'noise_refiner', 'context_refiner')},
    qwen_image={('transformer_blocks', 'transformer_blocks', 2): {o: o for o in QWEN}},
    krea2={('blocks', 'transformer_blocks', 2): KREA, ('txtfusion.refiner_blocks', 'text_fusion.refiner_blocks', 1): KREA})
OTHERS = dict(
    sd3={'context_embedder': 'context_embedder', 'final_layer.linear': 'proj_out', 'final_layer.adaLN_modulation.1': 'norm_out.linear~',
         't_embedder.mlp.0': 'time_text_embed.timestep_embedder.linear_1', 'y_embedder.mlp.2': 'time_text_embed.text_embedder.linear_2'},
    flux={'img_in': 'x_embedder', 'txt_in': 'context_embedder', 'final_layer.linear': 'proj_out', 'final_layer.adaLN_modulation.1': 'norm_out.linear~',
          'time_in.in_layer': 'time_text_embed.timestep_embedder.linear_1', 'guidance_in.out_layer': 'time_text_embed.guidance_embedder.linear_2'},
    flux2={'img_in': 'x_embedder', 'single_stream_modulation.lin': 'single_stream_modulation.linear', 'final_layer.adaLN_modulation.1': 'norm_out.linear~'},
    z_image={'cap_embedder.1': 'cap_embedder.1', 'final_layer.linear': 'all_final_layer.2-1.linear', 'x_embedder': 'all_x_embedder.2-1'},
    qwen_image={'img_in': 'img_in', 'norm_out.linear': 'norm_out.linear'},
    krea2={'first': 'img_in', 'tmlp.2': 'time_embed.linear_2', 'last.linear': 'final_layer.linear'})

def native_layers(name, transformer, others=True):
    "Native name, and names in diffusers, of all layers of the model"
    weights = {k.removesuffix('.weight'): v for k, v in transformer.named_parameters() if k.endswith('.weight') and v.dim() == 2}
    found = {f'{a}.{n}.{native}': [f'{b}.{n}.{o}' for o in ours.split()]
             for (a, b, blocks), layers in BLOCKS[name].items() for n in range(blocks) for native, ours in layers.items()}
    found |= {k: [v] for k, v in OTHERS[name].items()} if others else {}
    found = {k: v for k, v in found.items() if all(o.rstrip('~') in weights for o in v)}
    return found, weights

def adapters(name, transformer, alpha=ALPHA, others=True):
    "A random adapter: A, B and the alpha of each layer by native name; A and the folded B by the names in diffusers"
    torch.manual_seed(1)
    (layers, weights), native, plain = native_layers(name, transformer, others), {}, {}
    for layer, parts in layers.items():
        sizes = [len(weights[o.rstrip('~')]) for o in parts]
        A, B = torch.randn(RANK, weights[parts[0].rstrip('~')].shape[1])*.1, torch.randn(sum(sizes), RANK)*.1
        swap = parts[0].endswith('~') or 'context_block.adaLN' in layer and len(B) == 2*A.shape[1]
        native[layer] = A, torch.cat(B.chunk(2)[::-1]) if swap else B
        plain |= {o.rstrip('~'): (A, b) for o, b in zip(parts, B.split(sizes))}
    return native, plain

def scaled(plain, alpha=ALPHA):
    "Tensors in the names of diffusers, with the scale folded in"
    return {f'transformer.{k}.lora_{o}.weight': m*(alpha/RANK if o == 'B' and alpha else 1) for k, v in plain.items() for o, m in zip('AB', v)}

SCHEMES = dict( # prefix, layers, separator, names of the factors, alpha
    kohya=('lora_unet_', 'native', '_', ('lora_down', 'lora_up'), ALPHA), kohya_without_alpha=('lora_unet_', 'native', '_', ('lora_down', 'lora_up'), None),
    musubi=('lora_unet_', 'plain', '_', ('lora_down', 'lora_up'), ALPHA), comfyui=('diffusion_model.', 'native', '.', ('lora_down', 'lora_up'), ALPHA),
    ai_toolkit=('diffusion_model.', 'native', '.', ('lora_A', 'lora_B'), None), onetrainer=('lora_transformer_', 'plain', '_', ('lora_down', 'lora_up'), ALPHA),
    onetrainer_diffusers=('transformer.', 'plain', '.', ('lora_A', 'lora_B'), ALPHA), simpletuner=('diffusion_model.', 'plain', '.', ('lora_A', 'lora_B'), None),
    peft=('base_model.model.', 'plain', '.', ('lora_A', 'lora_B'), None), peft_native=('base_model.model.', 'native', '.', ('lora_A', 'lora_B'), None),
    without_prefix=('', 'plain', '.', ('lora_down', 'lora_up'), ALPHA), native_without_prefix=('', 'native', '.', ('lora_A', 'lora_B'), None),
    whole_prefix=('model.diffusion_model.', 'native', '.', ('lora_A', 'lora_B'), ALPHA))

def write(path, scheme, native, plain, metadata=None):
    "Write a file in a naming; the tensors that it should be read as"
    prefix, kind, dot, ends, alpha = SCHEMES[scheme]
    state = {}
    for layer, factors in (native if kind == 'native' else plain).items():
        key = prefix + layer.replace('.', dot)
        state |= {f'{key}.{end}.weight': o.clone() for end, o in zip(ends, factors)} | ({f'{key}.alpha': torch.tensor(alpha)} if alpha else {})
    save_file(state, path, metadata)
    return scaled(plain, alpha)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A function that makes and loads the tiny model of a family once: base, a pipeline, and a function that predicts with a transformer"
    folder, found = tmp_path_factory.mktemp('names'), {}
    def get(name):
        if name in found: return found[name]
        base = load_base(tiny_flow(name, folder/name), 'cpu')
        torch.manual_seed(0)
        latents = torch.randn(1, base.family.latent_channels(base.denoiser), 32//base.vae_scale, 48//base.vae_scale)
        condition = encode_prompts(base, ['a red apple'])
        with torch.no_grad(): call = lambda transformer: base.family.predict(transformer, latents, torch.tensor([.5]), condition)
        found[name] = base, load_pipeline(base.name, device='cpu'), torch.no_grad()(call)
        return found[name]
    return get


# --- every family under every naming

@each
def test_has_the_effect_of_the_plain_file(made, name, tmp_path):
    base, pipeline, call = made(name)
    native, plain = adapters(name, base.denoiser)
    outputs, without = {}, call(base.denoiser)
    for scheme in SCHEMES:
        wanted = write(tmp_path/f'{scheme}.safetensors', scheme, native, plain)
        alpha = SCHEMES[scheme][-1]
        if alpha not in outputs:
            save_file({k: v.contiguous() for k, v in wanted.items()}, tmp_path/'plain.safetensors')
            outputs[alpha] = call(apply_lora(pipeline, tmp_path/'plain.safetensors').transformer)
            assert (outputs[alpha] - without).abs().max() > 1e-3
        ours = call(apply_lora(pipeline, tmp_path/f'{scheme}.safetensors').transformer)
        assert torch.allclose(ours, outputs[alpha], atol=1e-5), scheme
    assert not torch.allclose(outputs[ALPHA], outputs[None], atol=1e-4)
    first = call(load_pipeline(base.name, tmp_path/'kohya.safetensors', device='cpu').transformer)
    assert torch.allclose(first, outputs[ALPHA], atol=1e-5)

@each
def test_converts_to_the_plain_file(made, name, tmp_path):
    "Without the base: every layer has its name in diffusers, and its alpha is folded in"
    native, plain = adapters(name, made(name)[0].denoiser)
    for scheme in SCHEMES:
        wanted = write(tmp_path/'a.safetensors', scheme, native, plain)
        assert family_of_file(tmp_path/'a.safetensors').name == name, scheme
        for to in ('kohya', 'diffusers'):
            found = load_file(convert(tmp_path/'a.safetensors', tmp_path/'b.safetensors', to=to))
            assert found.keys() == wanted.keys(), scheme
            assert all(torch.allclose(found[k], wanted[k], atol=1e-6) for k in wanted), scheme
        assert info(tmp_path/'a.safetensors')['parts'] == dict(transformer=len(plain)), scheme
        assert read_lora_info(tmp_path/'a.safetensors')['alpha'] == (SCHEMES[scheme][-1] or RANK)

@each
@pytest.mark.parametrize('to', ['kohya', 'diffusers'])
def test_diffusers_reads_a_converted_file(made, name, tmp_path, to):
    base, pipeline, call = made(name)
    native, plain = adapters(name, base.denoiser)
    write(tmp_path/'a.safetensors', 'kohya', native, plain)
    theirs = DiffusionPipeline.from_pretrained(base.name)
    with quiet(): theirs.load_lora_weights(convert(tmp_path/'a.safetensors', tmp_path/'b.safetensors', to=to))
    arrived = {o for o in theirs.transformer.state_dict() if o.endswith('lora_A.default_0.weight')}
    assert len(arrived) == len(plain)
    ours = call(apply_lora(pipeline, tmp_path/'a.safetensors').transformer)
    assert torch.allclose(call(theirs.transformer), ours, atol=1e-4)

@each
def test_merges_and_resizes(made, name, tmp_path):
    native, plain = adapters(name, made(name)[0].denoiser)
    for n, scheme in enumerate(('kohya', 'ai_toolkit')): write(tmp_path/f'{n}.safetensors', scheme, native, plain)
    merged, _ = read_layers(merge([tmp_path/'0.safetensors', tmp_path/'1.safetensors'], tmp_path/'merged.safetensors'))
    smaller, _ = read_layers(resize(tmp_path/'0.safetensors', tmp_path/'small.safetensors', rank=RANK)[0])
    for layer, (A, B) in plain.items():
        for found, scale in ((merged, ALPHA/RANK + 1), (smaller, ALPHA/RANK)):
            assert torch.allclose(weight_delta(found[f'transformer.{layer}'], B @ A), scale*(B @ A), atol=1e-5)

@each
def test_peft_settings_set_the_alpha(made, name, tmp_path):
    base, pipeline, call = made(name)
    native, plain = adapters(name, base.denoiser)
    (tmp_path/'adapter_config.json').write_text(json.dumps(dict(r=RANK, lora_alpha=ALPHA)))
    outputs = []
    for scheme in ('peft', 'peft_native'):
        wanted = write(tmp_path/'adapter_model.safetensors', scheme, native, plain)
        outputs.append(call(apply_lora(pipeline, tmp_path/'adapter_model.safetensors').transformer))
    write(tmp_path/'a.safetensors', 'kohya', native, plain)
    outputs.append(call(apply_lora(pipeline, tmp_path/'a.safetensors').transformer))
    assert torch.allclose(outputs[0], outputs[2], atol=1e-5) and torch.allclose(outputs[1], outputs[2], atol=1e-5)


# --- other kinds of adapters and layers

@pytest.mark.parametrize('name', ['sd3', 'flux', 'flux2', 'z_image'])
def test_fused_lokr_and_loha(made, name, tmp_path):
    "A fused LoKr or LoHa changes the layers as its rows do"
    base, pipeline, call = made(name)
    layers, weights = native_layers(name, base.denoiser, others=False)
    layer, parts = next((k, v) for k, v in layers.items() if len(v) > 1)
    sizes, columns = [len(weights[o]) for o in parts], weights[parts[0]].shape[1]
    torch.manual_seed(0)
    lokr = dict(lokr_w1=torch.randn(2, 2), lokr_w2_a=torch.randn(sum(sizes)//2, 2), lokr_w2_b=torch.randn(2, columns//2), alpha=torch.tensor(ALPHA))
    loha = {f'hada_w{i}_{o}': torch.randn(sum(sizes), 2) if o == 'a' else torch.randn(2, columns) for i in (1, 2) for o in 'ab'}
    for tensors in (lokr, loha):
        save_file({f'diffusion_model.{layer}.{k}': v for k, v in tensors.items()}, tmp_path/'a.safetensors')
        apply_lora(pipeline, tmp_path/'a.safetensors')
        state = dict(pipeline.transformer.named_parameters())
        delta = torch.cat([state[f'{o}.weight'] - weights[o] for o in parts])
        if 'lokr_w1' in tensors: expected = torch.kron(lokr['lokr_w1'], lokr['lokr_w2_a'] @ lokr['lokr_w2_b'])*ALPHA/2
        else: expected = (loha['hada_w1_a'] @ loha['hada_w1_b'])*(loha['hada_w2_a'] @ loha['hada_w2_b'])
        assert torch.allclose(delta, expected, atol=1e-4)

def test_text_encoder(made, tmp_path):
    "The CLIP of a kohya file for FLUX.1 is read, and diffusers reads it from the converted file"
    base, pipeline, _ = made('flux')
    native, plain = adapters('flux', base.denoiser)
    write(tmp_path/'a.safetensors', 'kohya', native, plain)
    state, end = load_file(tmp_path/'a.safetensors'), 'encoder.layers.0.self_attn.q_proj'
    clip = base.parts['text_encoder']
    weight = next(v for k, v in clip.named_parameters() if k.endswith(f'{end}.weight'))
    key = f"lora_te1_text_model_{end.replace('.', '_')}"
    A, B = torch.randn(RANK, weight.shape[1]), torch.randn(len(weight), RANK)
    save_file(state | {f'{key}.lora_down.weight': A, f'{key}.lora_up.weight': B, f'{key}.alpha': torch.tensor(ALPHA)}, tmp_path/'b.safetensors')
    apply_lora(pipeline, tmp_path/'b.safetensors')
    changed = next(v for k, v in pipeline.text_encoder.named_parameters() if k.endswith(f'{end}.weight'))
    assert torch.allclose(changed - weight, B @ A*ALPHA/RANK, atol=1e-5)
    theirs = DiffusionPipeline.from_pretrained(base.name)
    with quiet(): theirs.load_lora_weights(convert(tmp_path/'b.safetensors', tmp_path/'c.safetensors'))
    assert sum(o.endswith('lora_A.default_0.weight') for o in theirs.text_encoder.state_dict()) == 1


# --- files that do not fit are refused, in words

def one_more(path, key):
    "Add a layer of this name to a file"
    save_file(load_file(path) | {f'{key}.lora_{o}.weight': torch.ones(2, 2) for o in ('down', 'up')}, path)

@each
@pytest.mark.parametrize('key', ['lora_unet_other_blocks_0_proj', 'diffusion_model.other.weight_of', 'transformer.other.layer', 'lora_te3_encoder_block_0'])
def test_unknown_layer_is_named(made, name, tmp_path, key):
    base, pipeline, _ = made(name)
    write(tmp_path/'a.safetensors', 'kohya', *adapters(name, base.denoiser))
    one_more(tmp_path/'a.safetensors', key)
    if not key.startswith('transformer.'):
        with pytest.raises(Problem, match=key): apply_lora(pipeline, tmp_path/'a.safetensors')
        with pytest.raises(Problem, match=key): convert(tmp_path/'a.safetensors', tmp_path/'b.safetensors')
    else:
        assert any(key in o for o in load_file(convert(tmp_path/'a.safetensors', tmp_path/'b.safetensors')))
        with pytest.raises(Problem, match='does not fit|another kind'): apply_lora(pipeline, tmp_path/'a.safetensors')

def pairs():
    return [(a, b) for a in MAKERS for b in MAKERS if a != b]

@pytest.mark.parametrize('scheme', ['kohya', 'onetrainer_diffusers'])
@pytest.mark.parametrize('theirs, ours', pairs())
def test_another_family_is_refused(made, tmp_path, theirs, ours, scheme):
    "The message names the family of the file and that of the base"
    write(tmp_path/'a.safetensors', scheme, *adapters(theirs, made(theirs)[0].denoiser))
    base, pipeline, _ = made(ours)
    with pytest.raises(Problem) as error: apply_lora(pipeline, tmp_path/'a.safetensors')
    assert made(theirs)[0].family.title in str(error.value) and base.family.title in str(error.value)

def test_a_unet_and_a_transformer(made, tmp_path):
    write(tmp_path/'a.safetensors', 'kohya', *adapters('flux', made('flux')[0].denoiser))
    with pytest.raises(Problem, match='FLUX.1 model; the base is a Stable Diffusion'): load_pipeline('starter', tmp_path/'a.safetensors', device='cpu')
    key = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q'
    save_file({f'{key}.lora_down.weight': torch.ones(2, 8), f'{key}.lora_up.weight': torch.ones(8, 2)}, tmp_path/'b.safetensors')
    with pytest.raises(Problem, match='Stable Diffusion 1.x model; the base is a FLUX.1'): apply_lora(made('flux')[1], tmp_path/'b.safetensors')

@each
def test_another_size_is_refused(made, name, tmp_path):
    base, pipeline, _ = made(name)
    native, plain = adapters(name, base.denoiser, others=False)
    wider = {k: (A.repeat(1, 2), B.repeat(2, 1)) for k, (A, B) in native.items()}
    write(tmp_path/'a.safetensors', 'kohya', wider, plain)
    with pytest.raises(Problem, match='of another kind'): apply_lora(pipeline, tmp_path/'a.safetensors')
