"""Small random models of the flow families, of their real classes, as diffusers folders

    folder = tiny_flow('sd3', tmp/'sd3')                         any name in `MAKERS`

The text encoders have as many layers as the real ones where a family reads several of them, and the statistics of the vae are not 0 and 1,
so that a missing layer or normalization changes the result
"""
import inspect
from pathlib import Path

from automode.core import asset_path, quiet                    # first, since it silences advice of transformers

import torch
from diffusers import (AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline,
                       Flux2Transformer2DModel, FluxPipeline, FluxTransformer2DModel, Krea2Pipeline, Krea2Transformer2DModel, QwenImagePipeline,
                       QwenImageTransformer2DModel, SD3Transformer2DModel, StableDiffusion3Pipeline, ZImagePipeline, ZImageTransformer2DModel)
from transformers import (CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, Qwen2_5_VLConfig,
                          Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM, Qwen3Model, Qwen3VLConfig, Qwen3VLModel,
                          T5Config, T5EncoderModel, T5Tokenizer)

DYNAMIC = dict(use_dynamic_shifting=True, base_shift=.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096)


# --- tokenizers and text encoders

CHAT = ("{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}")

def qwen_tokenizer():
    "Qwen's tokenizer with the 256 bytes and its special tokens; the chat template is that of Qwen3 for plain messages"
    from automode.models.tokens import _byte_letters
    special = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
    made = Qwen2Tokenizer(vocab={o: n for n, o in enumerate(_byte_letters() + special)}, merges=[], model_max_length=4096)
    made.add_special_tokens(dict(additional_special_tokens=special[1:]))
    made.add_tokens(['<think>', '</think>'])
    made.chat_template, made.padding_side = CHAT, 'right'
    return made

def t5_tokenizer():
    "T5's tokenizer with single letters"
    letters = [chr(o) for o in range(33, 127)]
    return T5Tokenizer(vocab=[('<pad>', 0.), ('</s>', 0.), ('<unk>', 0.), ('▁', -2.), *((o, -3.) for o in letters)], extra_ids=0, model_max_length=512)

def t5_encoder(tokenizer, width=32):
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=width, d_ff=37, d_kv=8, num_layers=2, num_heads=4)).eval()

def clip(kind=CLIPTextModelWithProjection, width=32):
    "The starter's tokenizer, and a random text encoder"
    tokenizer = CLIPTokenizer.from_pretrained(asset_path('starter_base', 'tokenizer'), pad_token='<|endoftext|>')
    return tokenizer, kind(CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length, hidden_size=width, intermediate_size=37, num_hidden_layers=3,
        num_attention_heads=4, projection_dim=width, hidden_act='gelu', bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id)).eval()

def qwen3(tokenizer, kind=Qwen3Model, layers=3):
    return kind(Qwen3Config(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
                            num_key_value_heads=2, head_dim=8, max_position_embeddings=2048)).eval()

VISION = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16)


# --- families

def kl_vae(**more):
    "A vae with a latent of 4 x 4 pixels"
    return AutoencoderKL(sample_size=32, block_out_channels=(8, 8, 16), down_block_types=('DownEncoderBlock2D',)*3, norm_num_groups=4,
                         up_block_types=('UpDecoderBlock2D',)*3, layers_per_block=1, use_quant_conv=False, use_post_quant_conv=False,
                         **dict(latent_channels=4, scaling_factor=1.5305, shift_factor=.0609) | more)

def qwen_vae():
    return AutoencoderKLQwenImage(base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
                                  latents_mean=[.1, -.2, .3, -.4], latents_std=[1.5, .5, 2., .8])

def sd3():
    (one, first), (two, second), third = clip(), clip(width=64), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=4, caption_projection_dim=32,
        joint_attention_dim=96, pooled_projection_dim=96, pos_embed_max_size=32, dual_attention_layers=(0,), qk_norm='rms_norm')
    return StableDiffusion3Pipeline(transformer, FlowMatchEulerDiscreteScheduler(shift=3.), kl_vae(), first, one, second, two, t5_encoder(third, 96), third)

def flux():
    (one, first), two = clip(CLIPTextModel), t5_tokenizer()
    transformer = FluxTransformer2DModel(patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
                                         joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8], guidance_embeds=True)
    return FluxPipeline(FlowMatchEulerDiscreteScheduler(**DYNAMIC), kl_vae(scaling_factor=.3611, shift_factor=.1159), first, one, t5_encoder(two), two,
                        transformer)

def z_image():
    tokenizer = qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, norm_eps=1e-5,
        qk_norm=True, cap_feat_dim=16, rope_theta=256., t_scale=1000., axes_dims=[8, 4, 4], axes_lens=[1024, 64, 64])
    for o in (transformer.x_pad_token, transformer.cap_pad_token): torch.nn.init.normal_(o)
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=6.), kl_vae(scaling_factor=.3611, shift_factor=.1159), qwen3(tokenizer), tokenizer,
                          transformer)

def flux2():
    tokenizer = qwen_tokenizer()
    vae = AutoencoderKLFlux2(block_out_channels=(8, 8, 16), down_block_types=('DownEncoderBlock2D',)*3, up_block_types=('UpDecoderBlock2D',)*3,
                             layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(.5, 2)
    transformer = Flux2Transformer2DModel(patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
                                          joint_attention_dim=48, timestep_guidance_channels=32, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False)
    return Flux2KleinPipeline(FlowMatchEulerDiscreteScheduler(**DYNAMIC), vae, qwen3(tokenizer, Qwen3ForCausalLM, layers=28), tokenizer, transformer)

def qwen_image():
    tokenizer = qwen_tokenizer()
    config = Qwen2_5_VLConfig(vision_config=VISION, text_config=dict(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=2048, rope_scaling=dict(mrope_section=[1, 1, 2], rope_type='default', type='default')))
    transformer = QwenImageTransformer2DModel(patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
                                              joint_attention_dim=16, guidance_embeds=False, axes_dims_rope=(8, 4, 4))
    scheduler = FlowMatchEulerDiscreteScheduler(**DYNAMIC | dict(max_shift=.9, max_image_seq_len=8192, shift_terminal=.02))
    return QwenImagePipeline(scheduler, qwen_vae(), Qwen2_5_VLForConditionalGeneration(config).eval(), tokenizer, transformer)

def krea2():
    tokenizer = qwen_tokenizer()
    config = Qwen3VLConfig(vision_config=VISION | dict(deepstack_visual_indexes=[0]), text_config=dict(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=36, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        max_position_embeddings=2048, rope_scaling=dict(mrope_section=[1, 1, 2], rope_type='default')))
    transformer = Krea2Transformer2DModel(
        in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4, num_key_value_heads=2, intermediate_size=32, timestep_embed_dim=8,
        text_hidden_dim=16, num_text_layers=12, text_num_attention_heads=2, text_num_key_value_heads=1, text_intermediate_size=16,
        num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 2, 2), rope_theta=1000.)
    scheduler = FlowMatchEulerDiscreteScheduler(**DYNAMIC | dict(max_image_seq_len=6400))
    return Krea2Pipeline(scheduler, qwen_vae(), Qwen3VLModel(config).eval(), tokenizer, transformer)

MAKERS = dict(sd3=sd3, flux=flux, z_image=z_image, flux2=flux2, qwen_image=qwen_image, krea2=krea2)

def tiny_flow(family, folder, seed=0):
    "Write a random model of a family as a diffusers folder; layers that start as zeros would hide what reaches them, and are random too"
    torch.manual_seed(seed)
    with quiet():
        pipeline = MAKERS[family]()
        for p in pipeline.transformer.parameters():
            if not p.any(): torch.nn.init.normal_(p, std=.1)
        pipeline.save_pretrained(folder)
    return Path(folder)

def calls_of(pipeline, size=(32, 48), **settings):
    "Draw one image of `a red apple` in two steps; the inputs and the output of the transformer at each call"
    found, forward = [], type(pipeline.transformer).forward
    names = [*inspect.signature(forward).parameters][1:]
    def record(model, inputs, named, output):
        found.append((dict(zip(names, inputs)) | named, output[0] if isinstance(output, tuple) else output.sample))
    pipeline.set_progress_bar_config(disable=True)
    hook = pipeline.transformer.register_forward_hook(record, with_kwargs=True)
    try:
        with torch.no_grad(), quiet():
            pipeline(prompt='a red apple', height=size[0], width=size[1], num_inference_steps=2, generator=torch.Generator().manual_seed(0), **settings)
    finally: hook.remove()
    return found
