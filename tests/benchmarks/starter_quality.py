#!/usr/bin/env python
"""How good are the starter models? Prints the figures, each with its 95 % interval and the least that is asked of it.

    python tests/benchmarks/starter_quality.py
    python tests/benchmarks/starter_quality.py --base FOLDER --captioner FOLDER --out pictures    # other weights; keep the sheets
    python tests/benchmarks/starter_quality.py --check                                            # exit with 1 when a figure falls short

The drawings are those of `evaluation.webp`, which no model saw in training; `nbs/starter/00_drawings.ipynb` made it.
"""
import argparse, json, platform, sys, time
from pathlib import Path

from PIL import Image

from automode.caption import load_captioner
from automode.core import Problem
from automode.data.images import image_grid, to_image
from automode.evaluate import accuracy, name_pictures, reconstruct, redraw, share_interval
from automode.generate import generate, load_pipeline
from automode.starter import starter_names, starter_prompt

HERE, EDGE = Path(__file__).parent, 64
UNSEEN_BY_CAPTIONER, UNSEEN_BY_BASE = {'emojione'}, {'emojione', 'openmoji', 'fxemoji', 'streamline-emojis'}


def read_evaluation():
    "The drawings that no model saw: a list of pictures, and of rows with `set`, `icon` and `name`"
    rows, sheet = json.loads((HERE/'evaluation.json').read_text()), Image.open(HERE/'evaluation.webp').convert('RGB')
    cols = sheet.width//EDGE
    place = lambda n: (n%cols*EDGE, n//cols*EDGE, n%cols*EDGE+EDGE, n//cols*EDGE+EDGE)
    return [sheet.crop(place(n)) for n in range(len(rows))], rows

def row(title, value, asked, good, detail=''):
    "One line of the report"
    print(f"{title:<52} {value:>8}   {asked:<10} {'yes' if good else 'NO':<4} {detail}", flush=True)
    return good

def share_row(title, named, least):
    "One line for a share of pictures that were named right"
    low, high = share_interval(sum(o.right for o in named), len(named))
    return row(title, f'{accuracy(named):.1%}', f'>= {least:.0%}', accuracy(named) >= least, f'{len(named)} pictures, {low:.0%} to {high:.0%}')

def keep_sheet(out, name, images, named=None):
    "Save pictures with what was said of them, wrong ones marked"
    if not out: return
    labels = named and [('' if o.right else f'{o.name}? ') + o.caption.removeprefix('a picture of ') for o in named]
    out.mkdir(parents=True, exist_ok=True)
    image_grid(images, labels=labels, cols=10, size=96).save(out/f'{name}.png')

def measure_captioner(captioner, images, rows, out):
    "Drawings that it never saw: of styles that it knows, and of one that it does not"
    good = True
    for title, least, keep in (('captioner, new drawings of styles that it knows', .6, lambda o: o['set'] not in UNSEEN_BY_CAPTIONER),
                               ('captioner, a style that it never saw', .3, lambda o: o['set'] in UNSEEN_BY_CAPTIONER)):
        chosen = [k for k, o in enumerate(rows) if keep(o)]
        named = name_pictures(captioner, [images[k] for k in chosen], [rows[k]['name'] for k in chosen])
        good &= share_row(title, named, least)
        keep_sheet(out, 'known_styles' if least > .5 else 'new_style', [images[k] for k in chosen], named)
    return good

def measure_drawing(pipeline, captioner, args):
    "Fifty common things, drawn and named again"
    names = starter_names()[::3][:args.things]
    draw = lambda prompts: generate(prompts, pipeline=pipeline, seed=args.seed, guidance_scale=args.guidance_scale,
                                    num_inference_steps=args.num_inference_steps)
    drawn, named = redraw(draw, captioner, names, prompt_fn=starter_prompt)
    keep_sheet(args.out, 'redrawn', drawn, named)
    return share_row('base, things drawn and named again', named, .6)

def measure_autoencoder(vae, images, rows, out):
    "What encoding and decoding loses, on drawings of the sets that it learned from and of others"
    good = True
    for title, seen in (('autoencoder, new drawings of sets that it knows', True), ('autoencoder, sets that it never saw', False)):
        chosen = [image for image, o in zip(images, rows) if (o['set'] not in UNSEEN_BY_BASE) == seen]
        put_in, got = reconstruct(vae, chosen)
        error = (put_in-got).abs().mean().item()
        if seen: good &= row(title, f'{error:.4f}', '< 0.03', error < .03, f'{len(chosen)} pictures, mean absolute error on -1 to 1')
        else: row(title, f'{error:.4f}', '', True, f'{len(chosen)} pictures')
        keep_sheet(out, f'autoencoder_{"known" if seen else "new"}', [to_image(o) for pair in zip(put_in[:50], got[:50]) for o in pair])
    return good

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--base', default='starter', help='a Stable Diffusion folder')
    parser.add_argument('--captioner', default='starter', help='a BLIP folder')
    parser.add_argument('--things', type=int, default=50, help='how many things to draw')
    parser.add_argument('--seed', type=int, default=0, help='seed of the drawn pictures')
    parser.add_argument('--num_inference_steps', type=int, default=25)
    parser.add_argument('--guidance_scale', type=float, default=5.)
    parser.add_argument('--out', type=Path, help='a folder for sheets of the pictures')
    parser.add_argument('--check', action='store_true', help='exit with 1 when a figure falls short')
    args, began = parser.parse_args(), time.time()
    images, rows = read_evaluation()
    captioner, pipeline = load_captioner(args.captioner), load_pipeline(args.base)
    print(f"{'what':<52} {'figure':>8}   {'asked':<10} {'met'}")
    met = [measure_captioner(captioner, images, rows, args.out), measure_drawing(pipeline, captioner, args),
           measure_autoencoder(pipeline.vae, images, rows, args.out)]
    print(f'{time.time()-began:.0f} s on {platform.machine()}, {pipeline.device.type}; base {args.base}, captioner {args.captioner}')
    if args.check and not all(met): sys.exit(1)


if __name__ == '__main__':
    try: main()
    except Problem as e: sys.exit(str(e))
