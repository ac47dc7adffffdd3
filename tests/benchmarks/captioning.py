#!/usr/bin/env python
"""How fast is captioning? The seed's loop, the same in batches, and automode, on the same pictures and model, one after another.

    python tests/benchmarks/captioning.py                        # the starter, on 960 drawings
    python tests/benchmarks/captioning.py --model large --pictures 12    # BLIP-large with random weights: the same work, no sense
    python tests/benchmarks/captioning.py --device cuda --model large --pictures 2000
    python tests/benchmarks/captioning.py --check                # exit with 1 when ours is not five times the seed's loop

All three decode greedily, at the most 20 new tokens after "a photography of", as the seed's notebook does.
"""
import argparse, json, platform, sys, tempfile, time
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import BlipConfig, BlipForConditionalGeneration, BlipProcessor
from torch.utils.flop_counter import FlopCounterMode

from automode.caption import caption_folder
from automode.captioners.blip import BlipCaptioner, load_blip
from automode.core import asset_path, pick_device, pick_dtype, quiet

PROMPT, TOKENS = 'a photography of', 20


def make_pictures(folder, num, edge):
    "Drawings that differ: the samples turned, mirrored and tinted, as PNG of `edge` pixels"
    samples = [Image.open(o).convert('RGB') for o in sorted(asset_path('samples', 'style').glob('*.png'))]
    for n in range(num):
        image = samples[n%len(samples)].resize((edge, edge)).rotate(n//len(samples)*7, fillcolor='white')
        image = ImageOps.mirror(image) if n%2 else image
        image.save(folder/f'{n:05d}.png', compress_level=1)
    return sorted(folder.glob('*.png'))

def make_large(device, dtype):
    "BLIP-large as its configuration says, with random weights: as fast as the real one, and speechless"
    config = BlipConfig(vision_config=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                                           image_size=384, patch_size=16),
                        text_config=dict(vocab_size=30524, encoder_hidden_size=1024, hidden_size=768, intermediate_size=3072,
                                         num_hidden_layers=12, num_attention_heads=12))
    torch.manual_seed(0)
    with torch.device(device): model = BlipForConditionalGeneration(config).to(dtype)
    starter = load_blip(device='cpu').processor
    image_processor = type(starter.image_processor)(size=dict(height=384, width=384))
    return BlipCaptioner(model, BlipProcessor(image_processor, starter.tokenizer), 'BLIP-large, random')

def finish(device):
    "Wait until the device has done what it was given"
    if device.type == 'cuda': torch.cuda.synchronize()

@contextmanager
def inside(model, device):
    "How many seconds are spent inside the model, in a list of one number"
    spent, parts = [0.], [(model.vision_model, 'forward'), (model.text_decoder, 'generate')]
    def timed(function):
        def call(*args, **kwargs):
            finish(device); started = time.perf_counter()
            result = function(*args, **kwargs)
            finish(device); spent[0] += time.perf_counter() - started
            return result
        return call
    for part, name in parts: setattr(part, name, timed(getattr(part, name)))
    try: yield spent
    finally:
        for part, name in parts: delattr(part, name)

def seeds_loop(captioner, paths):
    "The seed's notebook, put in a loop; it moves its inputs to where the model is, and no more"
    for path in paths:
        raw_image = Image.open(path).convert('RGB')
        inputs = captioner.processor(raw_image, PROMPT, return_tensors='pt').to(captioner.model.device, captioner.model.dtype)
        out = captioner.model.generate(**inputs, max_new_tokens=TOKENS)
        yield captioner.processor.decode(out[0], skip_special_tokens=True)

def in_batches(captioner, paths, batch_size):
    "The same, several pictures at a time"
    for i in range(0, len(paths), batch_size):
        images = [Image.open(o).convert('RGB') for o in paths[i:i + batch_size]]
        inputs = captioner.processor(images, [PROMPT]*len(images), return_tensors='pt').to(captioner.model.device, captioner.model.dtype)
        for o in captioner.model.generate(**inputs, max_new_tokens=TOKENS): yield captioner.processor.decode(o, skip_special_tokens=True)

def ours(captioner, folder, batch_size):
    "What `automode caption` does, files included"
    dataset = caption_folder(folder, captioner, prompt=PROMPT, num_beams=1, max_new_tokens=TOKENS, batch_size=batch_size)
    return [o['text'] for o in sorted(dataset, key=lambda o: o['file_name'])]

def peak(device, dtype):
    "Floating-point operations a second of a large matrix multiplication, the best of several"
    n = 8192 if device.type == 'cuda' else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    best = 0.
    for _ in range(8):
        finish(device); started = time.perf_counter()
        a @ a
        finish(device); best = max(best, 2*n**3 / (time.perf_counter() - started))
    return best

def flops(captioner, paths):
    "Floating-point operations for a picture"
    images = [Image.open(o).convert('RGB') for o in paths[:4]]
    with FlopCounterMode(display=False) as counter: captioner(images, PROMPT, max_new_tokens=TOKENS)
    return counter.get_total_flops() / len(images)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='starter', choices=['starter', 'large'])
    parser.add_argument('--pictures', type=int, default=960)
    parser.add_argument('--slow_pictures', type=int, default=0, help="of them for the seed's loop, where all would take too long")
    parser.add_argument('--edge', type=int, default=128, help='edge of the pictures in pixels')
    parser.add_argument('--batch_size', type=int, default=0, help='of the second and the third; 0 is 16 for the second, and automode finds its own')
    parser.add_argument('--repeat', type=int, default=3, help='rounds; the best of each is reported')
    parser.add_argument('--device')
    parser.add_argument('--check', action='store_true')
    parser.add_argument('--out', type=Path, help='a JSON file to add the figures to')
    args = parser.parse_args()
    device = pick_device(args.device)
    dtype = pick_dtype(device)
    with quiet(): captioner = load_blip(device=str(device)) if args.model == 'starter' else make_large(device, dtype)
    figures = []
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)/'pictures'; folder.mkdir()
        paths = make_pictures(folder, args.pictures, args.edge)
        slow = paths[:args.slow_pictures or None]
        ways = {"the seed's loop": lambda: list(seeds_loop(captioner, slow)),
                f'the same, {args.batch_size or 16} at a time': lambda: list(in_batches(captioner, paths, args.batch_size or 16)),
                'automode': lambda: ours(captioner, folder, args.batch_size or None)}
        list(seeds_loop(captioner, paths[:4]))                                  # warm up
        best, texts = {}, {}
        for _ in range(args.repeat):
            for name, way in ways.items():
                (folder/'metadata.jsonl').unlink(missing_ok=True)
                with quiet(), inside(captioner.model, device) as spent:
                    started = time.perf_counter()
                    texts[name] = way()
                    seconds = time.perf_counter() - started
                seconds, inside_it = seconds * args.pictures / len(texts[name]), spent[0] * args.pictures / len(texts[name])
                if name not in best or seconds < best[name][0]: best[name] = seconds, inside_it
        work, most = flops(captioner, paths), peak(device, dtype)
    where = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'{torch.get_num_threads()} threads of {platform.machine()}'
    print(f'{args.model}, {args.pictures} pictures of {args.edge} pixels, {str(dtype).removeprefix("torch.")}, {where}, '
          f'torch {torch.__version__}; a matrix multiplication reaches {most/1e9:.0f} GFLOP/s')
    seed = best["the seed's loop"][0]
    for name, (seconds, spent) in best.items():
        rate = args.pictures / seconds
        figures.append(dict(way=name, pictures_a_second=round(rate, 2), times_the_seed=round(seed/seconds, 2),
                            outside_the_model=round(1 - spent/seconds, 4), of_peak=round(rate*work/most, 4)))
        print(f'{name:<26} {rate:8.1f} pictures/s   {seed/seconds:5.2f} x   {1 - spent/seconds:6.1%} of the time outside the model   '
              f'{rate*work/most:6.1%} of the peak', flush=True)
    same = sum(a.replace(' - ', '-') == b for a, b in zip(texts["the seed's loop"], texts['automode']))
    print(f'{same} of {len(slow)} captions of automode are those of the seed\'s loop')
    if args.out:
        kept = json.loads(args.out.read_text()) if args.out.exists() else []
        kept.append(dict(model=args.model, pictures=args.pictures, edge=args.edge, dtype=str(dtype), where=where, ways=figures))
        args.out.write_text(json.dumps(kept, indent=1) + '\n')
    if args.check and (figures[-1]['times_the_seed'] < 5 or figures[-1]['outside_the_model'] > .1): sys.exit(1)


if __name__ == '__main__': main()
