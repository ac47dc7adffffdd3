"""Peak memory of `automode train` with a large text encoder and a larger transformer: loaded one after the other, or at once

    python tests/benchmarks/phased.py [FOLDER]

A random Z-Image of 1.5 GB with a text encoder of 1 GB (in float32) is written to FOLDER (default: a temporary one) in bfloat16; both ways train one
step on three images in float32 in a process of their own. Printed is the peak of its own memory: parts of files that are mapped do not count, since
the system can drop them at any time
"""
import json, subprocess, sys, tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

def make(folder):
    "Write the model"
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model
    from tiny_flow import kl_vae, qwen_tokenizer
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    encoder = Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), hidden_size=1024, intermediate_size=4096, num_hidden_layers=16, num_attention_heads=8,
                                     num_key_value_heads=8, head_dim=128, max_position_embeddings=2048))
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=1024, n_layers=25, n_refiner_layers=1, n_heads=8, n_kv_heads=8, norm_eps=1e-5,
        qk_norm=True, cap_feat_dim=1024, rope_theta=256., t_scale=1000., axes_dims=[32, 48, 48], axes_lens=[1024, 64, 64])
    for o in (transformer.x_pad_token, transformer.cap_pad_token): torch.nn.init.normal_(o)
    ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=6.), kl_vae(), encoder.eval(), tokenizer, transformer).to(torch.bfloat16).save_pretrained(folder)
    return {k: sum(4*o.numel() for o in v.parameters()) for k, v in dict(text_encoder=encoder, transformer=transformer).items()}

RUN = """
import json, resource, sys, threading, time
from automode import train as module
from automode.models.load import load_base
from automode.models.family import families
families()
base, images, out, way = sys.argv[1:]
if way == 'at once': module.load_base = lambda *args, later=False, **others: load_base(*args, **others)
def resident():
    "Memory that is not a part of a file"
    with open('/proc/self/status') as f: found = dict(o.split(':', 1) for o in f.read().splitlines() if ':' in o)
    return int(found['RssAnon'].split()[0])*1024
peak, start = [0], resident()
def watch():
    while True:
        peak[0] = max(peak[0], resident())
        time.sleep(.01)
threading.Thread(target=watch, daemon=True).start()
module.train(images, base, out, max_train_steps=1, batch_size=1, resolution=64, num_validation=0, device='cpu', sample_prompt='', rank=4, save_every_steps=0, token='sks', class_word='thing')
print(json.dumps(dict(start=start, peak=peak[0], resident=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024)))
"""

def measure(base, way, folder):
    "Peak memory of one run, in bytes"
    from automode.core import asset_path
    images = Path(folder)/'images'
    images.mkdir(exist_ok=True)
    for o in [*asset_path('samples', 'style').glob('*.png')][:3]: (images/o.name).write_bytes(o.read_bytes())
    made = subprocess.run([sys.executable, '-c', RUN, base, images, Path(folder)/way.replace(' ', '_'), way], capture_output=True, text=True)
    if made.returncode: sys.exit(made.stderr[-3000:])
    return json.loads(made.stdout.splitlines()[-1])

if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(*sys.argv[1:2] or [folder])
        sizes = make(folder/'base')
        print('parts:', {k: f'{v/1e9:.2f} GB' for k, v in sizes.items()})
        for way in ('one after the other', 'at once'):
            found = measure(folder/'base', way, folder)
            print(f'{way}:', {k: f'{v/1e9:.2f} GB' for k, v in found.items()}, f"{(found['peak'] - found['start'])/max(sizes.values()):.2f} x the larger part")
