"""Small random captioners of the real classes, as their authors would save them: weights, processor and tokenizer in a folder

    folder = tiny_captioner('git', tmp/'git')           'git', 'blip2', 'blip2_t5', 'florence2', 'qwen2vl' or 'llava'
    folder = tiny_tagger(tmp/'tagger')                  an image classifier
"""
import json, math
from pathlib import Path

import torch, transformers
from tokenizers import ByteLevelBPETokenizer

from automode.core import quiet, write_json, write_whole

WORDS = 'a small red bird on green tree blue house with round door the cat and dog look at yellow balloon of an'.split()
TEXTS = [' '.join(WORDS), 'Describe this picture in one sentence. Question: what is it? Answer: user assistant', 'What does the image describe?']
NARROW = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
CHAT = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def small_bpe(*special, blank='Ġ'):
    "Vocabulary and merges of a byte-pair tokenizer that knows a few words, and its special tokens"
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS*4, vocab_size=600, min_frequency=2, special_tokens=list(special))
    model = json.loads(trained.to_str())['model']
    keep = [o for o in model['vocab'] if o in special or (o.isascii() and len(o) == 1) or o[0] == 'Ġ' or len(o) > 1]
    spelt = lambda o: o.replace('Ġ', blank)
    return dict(vocab={spelt(o): i for i, o in enumerate(keep)}, merges=[tuple(map(spelt, o)) for o in model['merges']])

def large_weights(model):
    "Random weights so large that the captions depend on the image"
    torch.manual_seed(0)
    with torch.no_grad():
        for o in model.parameters():
            if o.dim() > 1: o.normal_(0, 1.5/math.sqrt(o[0].numel()))
        for o in model.modules():
            if isinstance(o, torch.nn.Embedding): o.weight.normal_(0, .3)

def save(folder, model, image_processor, tokenizer=None, processor=None, template=None, **extra):
    "Save a model with its processor"
    large_weights(model)
    for o in filter(None, (model, image_processor, tokenizer)):
        with quiet(): o.save_pretrained(folder)
    if processor: write_json(Path(folder)/'processor_config.json', dict(processor_class=processor) | extra)
    if template: write_whole(Path(folder)/'chat_template.jinja', template)
    return Path(folder)

def clip32(): return transformers.CLIPImageProcessorPil(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32))


# --- one function for each model

def git(folder):
    vocab = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS, '-', "'", 's']
    write_whole(Path(folder)/'vocab.txt', '\n'.join(vocab))
    config = transformers.GitConfig(vision_config=NARROW | dict(image_size=32, patch_size=8), vocab_size=len(vocab), bos_token_id=2,
                                    eos_token_id=3, max_position_embeddings=64, **NARROW)
    tokenizer = transformers.BertTokenizer(str(Path(folder)/'vocab.txt'))
    return save(folder, transformers.GitForCausalLM(config), clip32(), tokenizer, 'GitProcessor')

def blip2(folder, t5=False):
    tokenizer = transformers.GPT2Tokenizer(**small_bpe('<pad>', '</s>', '<unk>', '<image>'), bos_token='</s>', eos_token='</s>',
                                           unk_token='<unk>', pad_token='<pad>', add_bos_token=True)
    tokenizer.add_special_tokens(dict(additional_special_tokens=['<image>']))
    image = tokenizer.convert_tokens_to_ids('<image>')
    text = dict(model_type='opt', hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2,
                vocab_size=len(tokenizer), max_position_embeddings=64, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    if t5: text = dict(model_type='t5', d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, vocab_size=len(tokenizer), eos_token_id=1,
                       pad_token_id=0, decoder_start_token_id=0)
    config = transformers.Blip2Config(vision_config=NARROW | dict(image_size=32, patch_size=8),
        qformer_config=NARROW | dict(vocab_size=8, encoder_hidden_size=32), text_config=text, num_query_tokens=4, image_token_index=image)
    return save(folder, transformers.Blip2ForConditionalGeneration(config),
                transformers.BlipImageProcessorPil(size=dict(height=32, width=32)), tokenizer, 'Blip2Processor', num_query_tokens=4)

def blip2_t5(folder): return blip2(folder, t5=True)

def florence2(folder):
    tokenizer = transformers.BartTokenizer(**small_bpe('<s>', '<pad>', '</s>', '<unk>', '<mask>', '<image>'),
                                           extra_special_tokens=dict(image_token='<image>'))
    text = dict(model_type='bart', d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
                encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=len(tokenizer), max_position_embeddings=128, bos_token_id=0,
                pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)
    vision = dict(depths=[1]*4, embed_dim=[8, 16, 16, 32], num_heads=[1, 2, 2, 4], num_groups=[1, 2, 2, 4], window_size=4, projection_dim=32)
    config = transformers.Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.convert_tokens_to_ids('<image>'),
                                          decoder_start_token_id=2)
    seen = transformers.CLIPImageProcessorPil(size=dict(height=64, width=64), do_center_crop=False)
    seen.image_seq_length = 5
    model = transformers.Florence2ForConditionalGeneration(config)
    model.generation_config.update(forced_bos_token_id=0, forced_eos_token_id=2)
    return save(folder, model, seen, tokenizer, 'Florence2Processor')

def qwen2vl(folder):
    marks = ['<|im_start|>', '<|im_end|>', '<|image_pad|>', '<|video_pad|>', '<|vision_start|>', '<|vision_end|>']
    tokenizer = transformers.Qwen2Tokenizer(**small_bpe('<pad>', '<unk>', *marks), eos_token='<|im_end|>', pad_token='<pad>',
                                            unk_token='<unk>', additional_special_tokens=marks)
    ids = dict(zip(marks, tokenizer.convert_tokens_to_ids(marks)))
    text = NARROW | dict(num_key_value_heads=1, vocab_size=len(tokenizer), max_position_embeddings=256, eos_token_id=ids['<|im_end|>'],
        pad_token_id=0, bos_token_id=None, rope_parameters=dict(rope_type='default', mrope_section=[2, 3, 3], rope_theta=1e4))
    vision = dict(depth=1, embed_dim=32, hidden_size=32, num_heads=2, mlp_ratio=2, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=ids['<|image_pad|>'],
        video_token_id=ids['<|video_pad|>'], vision_start_token_id=ids['<|vision_start|>'], vision_end_token_id=ids['<|vision_end|>'])
    seen = transformers.Qwen2VLImageProcessorPil(patch_size=4, temporal_patch_size=2, merge_size=2, size=dict(shortest_edge=64, longest_edge=2048))
    return save(folder, transformers.Qwen2VLForConditionalGeneration(config), seen, tokenizer, 'Qwen2VLProcessor',
                CHAT.replace('IMAGE', '<|vision_start|><|image_pad|><|vision_end|>'))

def llava(folder, template=None):
    tokenizer = transformers.LlamaTokenizerFast(**small_bpe('<unk>', '<s>', '</s>', '<pad>', '<image>', blank='▁'), pad_token='<pad>',
                                                add_bos_token=True, extra_special_tokens=dict(image_token='<image>'))
    text = NARROW | dict(model_type='llama', num_key_value_heads=1, vocab_size=len(tokenizer), max_position_embeddings=256, pad_token_id=3)
    vision = NARROW | dict(model_type='clip_vision_model', image_size=32, patch_size=8)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=tokenizer.convert_tokens_to_ids('<image>'))
    return save(folder, transformers.LlavaForConditionalGeneration(config), clip32(), tokenizer, 'LlavaProcessor',
                template or '<s>' + CHAT.replace('IMAGE', '<image>\n'), patch_size=8,
                vision_feature_select_strategy='default', num_additional_image_tokens=1)

MODELS = {o.__name__: o for o in (git, blip2, blip2_t5, florence2, qwen2vl, llava)}

def tiny_captioner(model, folder, **kwargs):
    "Save a small random model of the kind `model`; its folder"
    return MODELS[model](folder, **kwargs)

LABELS = ('red_hat', 'tree_(plant)', '^_^', 'solo', 'character:alice_(wonderland)', 'character:bob', 'rating:general', 'rating:sensitive')

def tiny_tagger(folder, kind='ViT', labels=LABELS, **kwargs):
    "Save a small random image classifier; its folder"
    settings = dict(num_labels=len(labels), id2label=dict(enumerate(labels)), problem_type='multi_label_classification') | kwargs
    size = dict(embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2) if kind == 'Swinv2' else NARROW
    config = getattr(transformers, f'{kind}Config')(**size, image_size=32, patch_size=8, **settings)
    processor = transformers.ViTImageProcessorPil(size=dict(height=32, width=32), resample=3)
    return save(folder, getattr(transformers, f'{kind}ForImageClassification')(config), processor)
