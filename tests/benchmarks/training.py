#!/usr/bin/env python
"""How fast training is: a loop with the structure of the popular example script, and automode's, one process after another.

    python tests/benchmarks/training.py [--model starter|sd15|sdxl] [--resolution 64] [--batch_size 4] [--steps 60] [--rounds 8]
                                        [--precision no|bf16|fp16] [--device cpu|cuda] [--compile] [--check] [--keep FILE]

Both train a LoRA of the same rank on the same layers, on the same pictures and captions, with the same batch, optimiser and learning rate. `plain` does at each step what
diffusers' `train_text_to_image_lora.py` does: open and resize the pictures in the loop's own process, encode them and the prompts, draw noise, ask the unet through PEFT's
layers, gather the loss and read it, clip, step, read the loss once more. `automode` is `automode.train.train`. Samples a second are those of the steps
alone, without loading, caching and the first five steps. On a GPU the ends of the steps are events in its own queue, so that only work that is done counts. The peak is the largest
resident memory of the process (CPU) or the most that torch gave out (GPU); "the steps' peak" is that since the first five steps. The validation loss is measured afterwards, in the
same way for both, on the same held-out pictures with the same noise. `sd15` and `sdxl` are the full-size networks with random weights: the same work, no sense. "Of the peak" is the
share of what a large matrix multiplication reaches on that GPU, with the operations counted by `automode.forecast.flops`.
"""
import argparse, json, os, resource, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

RANK, RATE, SEED = 16, 4.6e-4, 0


# --- the models

def random_base(kind, folder, precision, device):
    "A full-size model with random weights, as a diffusers folder"
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
    from automode.core import quiet
    from automode.models.load import load_base
    torch.manual_seed(0)
    blocks = dict(down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'), block_out_channels=(320, 640, 1280),
                  up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'), transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20),
                  cross_attention_dim=2048, use_linear_projection=True, addition_embed_type='text_time', addition_time_embed_dim=256,
                  projection_class_embeddings_input_dim=2816, sample_size=128)
    with torch.device(device):
        unet = UNet2DConditionModel(**blocks) if kind == 'sdxl' else UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, down_block_types=('DownEncoderBlock2D',)*4,
                            up_block_types=('UpDecoderBlock2D',)*4, scaling_factor=.13025 if kind == 'sdxl' else .18215)
        text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))
        parts = dict(unet=unet, vae=vae, text_encoder=text)
        if kind == 'sdxl': parts['text_encoder_2'] = CLIPTextModelWithProjection(CLIPTextConfig(
            hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, hidden_act='gelu', projection_dim=1280))
    with quiet(): parts = {k: v.to(torch.float32 if precision == 'no' else torch.bfloat16) for k, v in parts.items()}
    tokenizer = load_base('starter', 'cpu').tokenizer
    tokenizer.model_max_length = 77
    parts |= dict(tokenizer=tokenizer, scheduler=DDPMScheduler(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear', steps_offset=1, clip_sample=False))
    if kind == 'sdxl': StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer, add_watermarker=False).save_pretrained(folder)
    else: StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)
    return folder

def dataset(folder, num):
    "The sample pictures with captions"
    from automode.core import asset_path
    shutil.copytree(asset_path('samples', 'style'), folder)
    rows = [dict(file_name=o.name, text=f"a picture of {o.stem.replace('_', ' ')}") for o in sorted(folder.glob('*.png'))[:num]]
    (folder/'metadata.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in rows))
    return folder


# --- the two loops; each is a process of its own

SKIP = 5 # Steps that do not count

class Clock:
    "When the steps ended, and how much memory there was at the most"
    def __init__(self, args):
        self.gpu, self.ends, self.first, self.batch_size = args.device == 'cuda', [], 0, args.batch_size
        self.skip = min(SKIP, args.steps//3)
    def peak(self):
        import torch
        return torch.cuda.max_memory_allocated() if self.gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    def end_step(self):
        "Note the end of a step; on a GPU without waiting for it"
        import torch
        if self.gpu:
            self.ends.append(torch.cuda.Event(enable_timing=True))
            self.ends[-1].record()
        else: self.ends.append(time.perf_counter())
        if self.gpu and len(self.ends) == self.skip + 1:
            self.first = self.peak()
            torch.cuda.reset_peak_memory_stats()
        self.last = self.peak()
    def result(self):
        "Samples a second, and the peaks"
        import torch
        if self.gpu: torch.cuda.synchronize()
        ends = self.ends[self.skip:]
        seconds = sorted(a.elapsed_time(b)/1000 if self.gpu else b - a for a, b in zip(ends, ends[1:]))
        return dict(samples_per_second=self.batch_size * len(seconds) / sum(seconds), median_step=seconds[len(seconds)//2], peak=max(self.first, self.last), steps_peak=self.last)

def plain(args, pictures, base):
    "The structure of the popular example script"
    import torch
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from peft import LoraConfig
    from torchvision_free import PictureDataset
    from automode.models.ldm import UNET_TARGETS
    from automode.models.load import load_base
    accelerator = Accelerator(mixed_precision=args.precision, cpu=args.device == 'cpu')
    torch.manual_seed(SEED)
    model = load_base(base, accelerator.device, 'float32' if args.precision == 'no' else args.precision)
    model.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights='gaussian', target_modules=UNET_TARGETS))
    learned = [p for p in model.unet.parameters() if p.requires_grad]
    for p in learned: p.data = p.data.float()
    data = PictureDataset(pictures, model.tokenizer, args.resolution, args.held_out)
    loader = torch.utils.data.DataLoader(data, batch_size=args.batch_size, shuffle=True, drop_last=True, num_workers=0)
    optimizer = torch.optim.AdamW(learned, lr=RATE, weight_decay=1e-2)
    schedule = get_scheduler('constant', optimizer)
    unet, optimizer, loader, schedule = accelerator.prepare(model.unet, optimizer, loader, schedule)
    noise_scheduler, clock, step = model.noise_scheduler, Clock(args), 0
    while step < args.steps:
        for batch in loader:
            latents = model.vae.encode(batch['pixel_values'].to(model.vae.dtype)).latent_dist.sample() * model.vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(latents),), device=latents.device).long()
            noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
            encoder_hidden_states, added = encode(model, batch['input_ids'], args.resolution)
            model_pred = unet(noisy_latents, timesteps, encoder_hidden_states, added_cond_kwargs=added, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(model_pred.float(), noise.float(), reduction='mean')
            accelerator.gather(loss.repeat(args.batch_size)).mean().item()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(learned, 1.)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            dict(step_loss=loss.detach().item(), lr=schedule.get_last_lr()[0])
            step += 1
            clock.end_step()
            if step == args.steps: break
    model.unet = accelerator.unwrap_model(unet)
    return model, clock

def encode(model, input_ids, resolution):
    "The prompts of a batch; for SDXL also what it is told of sizes"
    import torch
    if len(model.text_encoders) == 1: return model.text_encoder(input_ids, return_dict=False)[0], None
    both = [o(input_ids, output_hidden_states=True) for o in model.text_encoders.values()]
    time_ids = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]]*len(input_ids), device=input_ids.device, dtype=model.unet.dtype)
    return torch.cat([o.hidden_states[-2] for o in both], -1), dict(text_embeds=both[1][0], time_ids=time_ids)

def automode(args, pictures, base):
    "automode's own run"
    import automode.train as own
    clock, kept, step = Clock(args), {}, own.Trainer.step
    def timed(self):
        step(self)
        clock.end_step()
        kept.update(base=self.base)
    own.Trainer.step, own.generate_samples = timed, lambda *args, **kwargs: []             # the steps alone are compared
    own.train(Path(pictures).parent/'shown', base, 'run', max_train_steps=args.steps, batch_size=args.batch_size, rank=RANK, learning_rate=RATE, lr_scheduler='constant',
              resolution=args.resolution, lr_warmup_steps=0, min_snr_gamma=0, caption_dropout=0., save_every_steps=0, num_validation=0, seed=SEED,
              buckets=False, mixed_precision=args.precision, device='cpu' if args.device == 'cpu' else None, log_every_steps=min(10, args.steps), compile=args.compile)
    return kept['base'], clock

def one(args):
    "Run one of the loops in the present folder, and print what was measured"
    import torch
    from automode.core import write_json
    if args.threads: torch.set_num_threads(args.threads)
    sys.path.insert(0, os.getcwd())
    model, clock = globals()[args.loop](args, args.pictures, args.base)
    found = dict(loop=args.loop) | clock.result()
    if args.device == 'cuda' and args.precision != 'no': found['of_peak'] = found['samples_per_second'] * work(model, args) / matrix_rate(args)
    if args.held_out: found['validation_loss'] = validation_loss(model, args)
    write_json('found.json', found)

def work(model, args):
    "Floating-point operations of a step, for a picture"
    from automode.forecast.flops import count_step
    edge = args.resolution // model.vae_scale
    found = count_step(model.unet, (edge, edge), model.tokenizer.model_max_length, model.family)
    return found.forward.flops + found.backward.flops

def matrix_rate(args):
    "Floating-point operations a second of a large matrix multiplication, the best of several"
    import torch
    a, best = torch.randn(8192, 8192, device='cuda', dtype=dict(bf16=torch.bfloat16, fp16=torch.float16)[args.precision]), 0.
    for _ in range(8):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        for _ in range(4): a @ a
        ended.record()
        torch.cuda.synchronize()
        best = max(best, 4 * 2 * 8192**3 / (begun.elapsed_time(ended)/1000))
    return best

def validation_loss(model, args):
    "The loss on the held-out pictures, with the same noise at the same timesteps for everybody"
    from accelerate import Accelerator
    from automode.training.config import TrainConfig
    from automode.data.dataset import Dataset
    from automode.inputs.examples import assign, find_examples
    from automode.inputs.latents import make_cache
    from automode.training.monitor import Validation
    found = sorted(find_examples(Dataset.read(args.pictures))[0], key=lambda o: o.path.name)[-args.held_out:]
    cache = make_cache(model, assign(found, args.resolution, 16, buckets=False))
    return Validation(cache, TrainConfig(), num=64).loss(model, Accelerator(cpu=args.device == 'cpu', mixed_precision=args.precision))

PICTURES = '''
import json
from pathlib import Path
import numpy, torch
from PIL import Image
class PictureDataset(torch.utils.data.Dataset):
    "Pictures that are opened, resized and normalised when they are asked for"
    def __init__(self, folder, tokenizer, size, held_out):
        rows = [json.loads(o) for o in (Path(folder)/'metadata.jsonl').read_text().splitlines()]
        self.rows, self.folder, self.size = sorted(rows, key=lambda o: o['file_name'])[:len(rows) - held_out], Path(folder), size
        self.ids = tokenizer([o['text'] for o in self.rows], padding='max_length', truncation=True, max_length=tokenizer.model_max_length, return_tensors='pt').input_ids
    def __len__(self): return len(self.rows)
    def __getitem__(self, n):
        image = Image.open(self.folder/self.rows[n]['file_name']).convert('RGBA')
        flat = Image.new('RGB', image.size, 'white')
        flat.paste(image, mask=image)
        pixels = numpy.asarray(flat.resize((self.size, self.size), Image.BILINEAR), dtype='float32')/127.5 - 1
        return dict(pixel_values=torch.from_numpy(pixels).permute(2, 0, 1), input_ids=self.ids[n])
'''

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='starter', choices=['starter', 'sd15', 'sdxl'])
    parser.add_argument('--resolution', type=int)
    parser.add_argument('--batch_size', type=int)
    parser.add_argument('--steps', type=int)
    parser.add_argument('--rounds', type=int)
    parser.add_argument('--precision', default='no', choices=['no', 'bf16', 'fp16'])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--threads', type=int, default=0)
    parser.add_argument('--compile', action='store_true')
    parser.add_argument('--check', action='store_true')
    parser.add_argument('--keep', type=Path)
    for o in ('loop', 'pictures', 'base'): parser.add_argument(f'--{o}', help=argparse.SUPPRESS)
    parser.add_argument('--held_out', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    large = args.model != 'starter'
    for name, small, big in (('resolution', 64, 1024 if args.model == 'sdxl' else 512), ('batch_size', 4, 1), ('steps', 60, 60 if args.device == 'cuda' else 4),
                             ('rounds', 8, 1), ('held_out', 4, 0)):
        if getattr(args, name) is None: setattr(args, name, big if large else small)
    if args.loop: return one(args)
    place = Path(tempfile.mkdtemp())
    (place/'torchvision_free.py').write_text(PICTURES)
    num = 8 if large else 24
    pictures, base = dataset(place/'pictures', num), str(random_base(args.model, place/'base', args.precision, args.device)) if large else 'starter'
    shown = dataset(place/'shown', num)                       # what automode is given: without the pictures that are held out
    rows = sorted((shown/'metadata.jsonl').read_text().splitlines(True))
    (shown/'metadata.jsonl').write_text(''.join(rows[:len(rows) - args.held_out]))
    for o in rows[len(rows) - args.held_out:]: (shown/json.loads(o)['file_name']).unlink()
    best, times = {}, []
    for n in range(args.rounds):
        for loop in ('plain', 'automode'):
            flags = {k: v for k, v in vars(args).items() if k in ('resolution', 'batch_size', 'steps', 'precision', 'device', 'threads', 'held_out')}
            command = [sys.executable, str(Path(__file__).resolve()), '--loop', loop, '--pictures', str(pictures), '--base', base, *['--compile']*args.compile]
            shutil.rmtree(place/'run', ignore_errors=True)
            subprocess.run(command + [str(o) for k, v in flags.items() for o in (f'--{k}', v)], cwd=place, check=True, stdout=subprocess.DEVNULL)
            found = json.loads((place/'found.json').read_text())
            print(f"round {n+1}: " + ', '.join(f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}' for k, v in found.items()), flush=True)
            if loop not in best or found['samples_per_second'] > best[loop]['samples_per_second']: best[loop] = found
            if loop == 'plain': plain_rate = found['samples_per_second']
        times.append(found['samples_per_second']/plain_rate)
    faster = statistics.median(times)
    if args.device == 'cuda':
        import torch
        print(f'{args.model}, batch {args.batch_size}, {args.resolution} pixels, {args.precision}, {torch.cuda.get_device_name()}, torch {torch.__version__}', flush=True)
    print(f"automode does {faster:.2f} times as many samples a second in the median round ({min(times):.2f} to {max(times):.2f}), "
          f"{best['automode']['samples_per_second']/best['plain']['samples_per_second']:.2f} times when the best of each are compared; "
          f"its peak is {(best['plain']['peak'] - best['automode']['peak'])/1e6:.0f} MB lower, the steps' own "
          f"{(best['plain']['steps_peak'] - best['automode']['steps_peak'])/1e6:.0f} MB")
    if args.keep: args.keep.write_text(json.dumps(best, indent=1))
    shutil.rmtree(place)
    if args.check: sys.exit(faster < (1.5 if large else 1.2))

if __name__ == '__main__': main()
