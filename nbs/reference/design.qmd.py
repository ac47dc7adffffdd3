"""---
title: Design
description: "Steps that exchange folders, the files in each folder, and modules that import only earlier ones"
---"""
# The table of modules is generated from the notebooks when the site is built
import json, re

import yaml
from nbdev.config import get_config

NBS = get_config().nbs_path

def module_row(path):
    "A notebook's module, and the line under its title, as a row of a table"
    cells = json.loads(path.read_text())['cells']
    exports = re.search(r'#\| ?default_exp ([\w.]+)', ''.join(''.join(o['source']) for o in cells))
    line = re.search(r'^> (.*)', ''.join(cells[0]['source']), re.M)
    return f"| [`{exports[1]}`](../{path.relative_to(NBS).as_posix()}) | {line[1] if line else ''} |" if exports else ''

print('''## Steps exchange folders

Each step reads a folder and writes a folder, so you can run, inspect, stop, resume and replace each one separately.

| step | reads | writes |
|---|---|---|
| `automode caption` | images | `metadata.jsonl` next to them, one row per image |
| `automode check` | a dataset | nothing; it prints what it finds |
| `automode edit`, the review | a dataset | the same rows, edited |
| `automode convert` | a dataset in any format | the same in another format |
| `automode train` | a dataset, a base model | a run: the LoRA, its settings and metrics |
| `automode generate` | a base model, a LoRA | images |
| `automode lora` | LoRA files | a converted, resized or merged LoRA |
| `automode push` | a run | a repository on the Hugging Face Hub |
| `automode run` | images | all of these: `dataset/`, `run/`, `before_after.png`, `report.html` |

Captions, checkpoints and LoRAs are written atomically: to a temporary file in the same folder, which is flushed and renamed. Logs grow by whole lines, and a truncated line is skipped. A process killed at any time leaves either the old file or the new one, and the next process resumes from there.

## A dataset

A dataset is a folder with the original images and these files:

| file | contents |
|---|---|
| `metadata.jsonl` | one row per image, in the format of Hugging Face's `imagefolder`: `file_name`, `text`, and where the text comes from (`auto_text`, `captioner`, `prompt`, `score`, `status`) |
| `rejected.jsonl` | unusable images and rows, with the reason |
| `.automode/history.jsonl` | every bulk edit of captions, so that it can be undone |
| `.automode/latents/` | cached latents and prompt embeddings, reused by the next run |
| `.automode/looks.json` | size and perceptual hash of each image, keyed by its content |
| `.automode/lock`, `lock-*` | locks held while a process writes; one writer at a time |

Formats of other programs are imported and exported: [the notebook on conversions](../convert.ipynb).

## A run

The folder of a training run has these files:

| file | contents |
|---|---|
| `NAME.safetensors` | the LoRA of the last step, with kohya's names, alpha and metadata; loads in A1111, ComfyUI and diffusers |
| `README.md`, `card/` | its model card: description, trigger words, settings, images ([card](../lora/05_card.ipynb)) |
| `NAME.comfyui.json` | a workflow that uses it, to drop on the ComfyUI window ([workflow](../lora/06_comfyui.ipynb)) |
| `best/` | the step with the lowest validation loss; its LoRA, unless that is the last step |
| `diffusers/` | the LoRA as diffusers writes it |
| `config.json` | every setting, enough to repeat the run |
| `metrics.jsonl` | one row for each logged step and each validation |
| `now.json` | the current step, for monitoring; create a file `stop` next to it to stop the run |
| `samples/` | sample images of the same prompts at each checkpoint |
| `loras/` | a LoRA for each checkpoint, to compare |
| `checkpoints/step-000500/` | everything needed for an exact resume, with checksums |
| `left_out.jsonl` | unusable images, with the reason |
| `last_good/` | the last good weights of a run with a NaN or infinite loss |

[How do I stop and resume training?](../howto/resume.ipynb) shows such a folder.

## Modules

Each module is written, explained, demonstrated and tested in one notebook. Each folder is one part of automode. It imports only the folders listed before it, and inside a folder a module imports only the modules before it. The steps, the widgets and the command line may import everything. To find a line of code, look for the step it belongs to.
Importing the modules for images, datasets, caption review and the command line does not load PyTorch.
''')
sidebar = yaml.safe_load((NBS/'_quarto.yml').read_text())['website']['sidebar']['contents']
for section in next(o['contents'] for o in sidebar if o.get('section') == 'Modules'):
    patterns = section['contents'] if isinstance(section['contents'], list) else [section['contents']]
    print(f"\n### {section['section']}\n\n| module | what it does |\n|---|---|")
    for path in (o for pattern in patterns for o in sorted(NBS.glob(pattern))): print(module_row(path))
print('''
## Safety and privacy

- Code inside a file is never run: only the tensors of a `.ckpt` are read, and a captioner's own code runs only with `--trust_remote_code`. Weights are written only as `.safetensors`.
- Nothing is sent anywhere except by `automode push`, which first lists what it would send, and by `--log_with wandb`. Otherwise the network is used only to fetch a model or an image that you named.
- Images are never changed, and captions written by hand are never overwritten.''')
