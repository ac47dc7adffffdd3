#!/usr/bin/env python
"""Speed of training a flow model: a loop with the structure of diffusers' example script for Z-Image, and automode's, in turn

    python tests/benchmarks/flow.py [--resolution 256] [--batch_size 1] [--steps 16] [--cache_latents] [--check]

The model is a random Z-Image with a transformer of about 100 M weights, a sixtieth of the real one, and a vae with a quarter of the real one's
channels. Both loops train a LoRA of the same rank on the same layers, with the same images, captions, batch, precision and optimizer, each in a
process of its own, and take turns step by step. `plain` does at each step what `train_dreambooth_lora_z_image.py` does with its default flags and a caption for each image:
prompts are encoded once; images are opened and resized once and encoded by the vae at each step (unless `--cache_latents`); a noise level is looked up
in the table of the scheduler; the transformer predicts through PEFT's layers; the loss is read and shown. `automode` is `automode.train.train`.
Samples a second are those of the steps alone, without the first three
"""
import argparse, json, os, resource, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training import RANK, RATE, SEED, automode, dataset

def random_base(folder):
    "Write the model"
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from tiny_flow import qwen3, qwen_tokenizer
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    transformer = ZImageTransformer2DModel(all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=768, n_layers=10, n_refiner_layers=2, n_heads=6,
                                           n_kv_heads=6, cap_feat_dim=16, axes_dims=[32, 48, 48], axes_lens=[1024, 512, 512])
    for o in (transformer.x_pad_token, transformer.cap_pad_token): torch.nn.init.normal_(o)
    vae = AutoencoderKL(block_out_channels=(32, 64, 128, 128), layers_per_block=2, latent_channels=16, down_block_types=('DownEncoderBlock2D',)*4,
                        up_block_types=('UpDecoderBlock2D',)*4, scaling_factor=.3611, shift_factor=.1159, use_quant_conv=False, use_post_quant_conv=False)
    ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=6.), vae, qwen3(tokenizer), tokenizer, transformer).save_pretrained(folder)
    return sum(o.numel() for o in transformer.parameters())

def plain(args, images, base):
    "The structure of the example script"
    import training
    import numpy, torch
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
    from peft import LoraConfig
    from PIL import Image
    from tqdm.auto import tqdm
    from automode.lora.adapters import target_layers
    from automode.models.load import as_pipeline, load_base
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(SEED)
    model = load_base(base, 'cpu', 'float32')
    vae, transformer, pipeline, schedule = model.vae, model.denoiser, as_pipeline(model), model.noise_scheduler
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights='gaussian', target_modules=[*target_layers(transformer)]))
    learned = [p for p in transformer.parameters() if p.requires_grad]
    rows = [json.loads(o) for o in (Path(images)/'metadata.jsonl').read_text().splitlines()]
    def pixels(name):
        image = Image.open(Path(images)/name).convert('RGB').resize((args.resolution, args.resolution), Image.BILINEAR)
        return torch.from_numpy(numpy.asarray(image, 'float32')/127.5 - 1).permute(2, 0, 1)
    data = [pixels(o['file_name']) for o in rows]
    loader = torch.utils.data.DataLoader([*range(len(data))], batch_size=args.batch_size, drop_last=True,
                                         collate_fn=lambda batch: (torch.stack([data[o] for o in batch]), batch))
    optimizer = torch.optim.AdamW([dict(params=learned, lr=RATE)], weight_decay=1e-4)
    with torch.no_grad(): prompts = [pipeline.encode_prompt(o['text'])[0][0] for o in rows]
    cached = {}
    if args.cache_latents:
        with torch.no_grad(): cached = {tuple(batch): vae.encode(x).latent_dist for x, batch in loader}
    lr_scheduler = get_scheduler('constant', optimizer)
    transformer, optimizer, loader, lr_scheduler = accelerator.prepare(transformer, optimizer, loader, lr_scheduler)
    def get_sigmas(timesteps, n_dim):
        places = [(schedule.timesteps == t).nonzero().item() for t in timesteps]
        return schedule.sigmas[places].flatten().view(-1, *[1]*(n_dim - 1))
    clock, step, bar = training.Clock(args), 0, tqdm(range(args.steps), desc='Steps')
    transformer.train()
    while step < args.steps:
        for x, batch in loader:
            with accelerator.accumulate([transformer]):
                latents = cached[tuple(batch)].mode() if cached else vae.encode(x).latent_dist.mode()
                latents = (latents - vae.config.shift_factor)*vae.config.scaling_factor
                noise = torch.randn_like(latents)
                u = compute_density_for_timestep_sampling('none', len(latents), logit_mean=0., logit_std=1., mode_scale=1.29)
                timesteps = schedule.timesteps[(u*schedule.config.num_train_timesteps).long()]
                sigmas = get_sigmas(timesteps, latents.ndim)
                noisy = (1. - sigmas)*latents + sigmas*noise
                found = transformer(list(noisy.unsqueeze(2).unbind()), (1000 - timesteps)/1000, [prompts[o] for o in batch], return_dict=False)[0]
                model_pred = -torch.stack(found).squeeze(2)
                weighting = compute_loss_weighting_for_sd3('none', sigmas)
                target = noise - latents
                loss = torch.mean((weighting.float()*(model_pred.float() - target.float())**2).reshape(len(target), -1), 1).mean()
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(transformer.parameters(), 1.)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            step += 1
            bar.update(1)
            logs = dict(loss=loss.detach().item(), lr=lr_scheduler.get_last_lr()[0])
            bar.set_postfix(**logs)
            accelerator.log(logs, step=step)
            clock.end_step()
            if step == args.steps: break

class Turns:
    "Do a step when the parent process asks for one, and tell how long it took"
    def __init__(self, asked, told): self.asked, self.told, self.begun = os.fdopen(asked), os.fdopen(told, 'w'), None
    def end_step(self):
        now = time.perf_counter(), time.process_time()
        if self.begun: print(*(b - a for a, b in zip(self.begun, now)), peak(), file=self.told, flush=True)
        if not self.asked.readline(): os._exit(0)
        self.begun = time.perf_counter(), time.process_time()

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024

def one(args):
    "Run one of the loops in the present folder"
    import torch, training
    torch.set_num_threads(args.threads)
    turns = Turns(*map(int, args.pipes.split(',')))
    training.Clock = lambda args: turns
    globals()[args.loop](args, args.images, args.base)

def start(loop, args, place):
    "Start a loop; functions that make it do a step and end it"
    (asked, ask), (answer, told) = os.pipe(), os.pipe()
    flags = [f'--{o}={getattr(args, o)}' for o in ('resolution', 'batch_size', 'threads')] + ['--cache_latents']*args.cache_latents
    command = [sys.executable, str(Path(__file__).resolve()), f'--loop={loop}', f"--images={place/'images'}", f"--base={place/'base'}", f'--pipes={asked},{told}', *flags]
    log = open(place/f'{loop}.log', 'w')
    process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log, pass_fds=[asked, told], env=os.environ | dict(OMP_NUM_THREADS=str(args.threads)))
    for o in (asked, told): os.close(o)
    ask, answer = os.fdopen(ask, 'w'), os.fdopen(answer)
    def step():
        print('step', file=ask, flush=True)
        line = answer.readline()
        if not line: sys.exit((place/f'{loop}.log').read_text()[-3000:])
        return [float(o) for o in line.split()]
    def end():
        ask.close()
        process.wait()
    return step, end

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in dict(resolution=256, batch_size=1, steps=16, threads=1).items(): parser.add_argument(f'--{name}', type=int, default=value)
    for name in ('cache_latents', 'check'): parser.add_argument(f'--{name}', action='store_true')
    for name in ('loop', 'images', 'base', 'pipes'): parser.add_argument(f'--{name}', help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.device, args.precision, args.compile = 'cpu', 'no', False
    if args.loop:
        args.steps = 10_000
        return one(args)
    place = Path(tempfile.mkdtemp())
    try:
        print(f"transformer of {random_base(place/'base')/1e6:.1f} M weights", flush=True)
        dataset(place/'images', 8)
        shutil.copytree(place/'images', place/'shown')          # what `training.automode` reads
        loops = {o: start(o, args, place) for o in ('plain', 'automode')}
        found = {o: [] for o in loops}
        for n in range(args.steps + 2):
            for name, (step, _) in loops.items(): found[name].append(step())
            print(f'step {n}:', {k: f'{v[-1][0]:.3f} s, {v[-1][1]:.3f} s of the processor' for k, v in found.items()}, flush=True)
        for _, end in loops.values(): end()
    finally: shutil.rmtree(place)
    for n, what in enumerate(('by the clock', 'by time of the processor')):
        times = [a[n]/b[n] for a, b in zip(*(o[2:] for o in found.values()))]
        middle = {k: statistics.median(o[n] for o in v[2:]) for k, v in found.items()}
        print(f'{what}: {middle["plain"]/middle["automode"]:.2f} times as many samples a second (medians of {middle["plain"]:.3f} and {middle["automode"]:.3f} s a step; '
              f'step by step {min(times):.2f} to {max(times):.2f})')
    print('peak of memory:', {k: f'{v[-1][2]/1e9:.2f} GB' for k, v in found.items()})
    if args.check: sys.exit(middle['plain']/middle['automode'] < 1.3)

if __name__ == '__main__': main()
