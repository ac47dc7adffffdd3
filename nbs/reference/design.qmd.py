"""---
title: Design
description: "How it is laid out: steps that meet on disk, modules that know only what comes before them, and what is in which file"
---"""
# The table of modules is written when the site is built, from the notebooks themselves
import json, re
from nbdev.config import get_config

def module_row(path):
    "A notebook's module, and the line under its title, as a row of a table"
    cells = json.loads(path.read_text())['cells']
    exports = re.search(r'#\| ?default_exp (\w+)', ''.join(''.join(o['source']) for o in cells))
    line = re.search(r'^> (.*)', ''.join(cells[0]['source']), re.M)
    return f"| [`{exports[1]}`](../{path.name}) | {line[1] if line else ''} |" if exports else ''

print('''## Steps meet on disk

Each step reads a folder and writes a folder, so that each can be run, looked at, stopped, gone on with and replaced by itself.

| step | reads | writes |
|---|---|---|
| `automode caption` | pictures | `metadata.jsonl` beside them, a row a picture |
| `automode check`, `automode captions`, the review | a dataset | the same rows, changed |
| `automode train` | a dataset, a base model | a run: the LoRA, its settings, what was measured |
| `automode generate` | a base model, a LoRA | pictures |
| `automode run` | pictures | all of these: `dataset/`, `run/`, `before_after.png`, `report.html` |

Captions, checkpoints and LoRAs are written whole: to a name beside it, flushed, and renamed; logs grow by whole lines, and a line that was cut off is passed over. A process that is killed at any moment leaves the old file or the new one, and the next one goes on from there.

## A dataset

The pictures as they were, and:

| file | what is in it |
|---|---|
| `metadata.jsonl` | a row a picture, in the form that Hugging Face's `imagefolder` reads: `file_name`, `text`, and what the text was made of (`auto_text`, `captioner`, `prompt`, `score`, `status`) |
| `rejected.jsonl` | what cannot be used, with the reason |
| `.automode/history.jsonl` | every change of many captions, so that it can be taken back |
| `.automode/latents/` | what the vae and the text encoders said of the pictures and prompts, found again by the next run |
| `.automode/looks.json` | size and look of each picture, by its content |
| `.automode/lock`, `lock-*` | held while a process writes; one at a time |

Other programs' forms are imports and exports: [the notebook on conversions](../03_convert.ipynb).

## A run

| file | what is in it |
|---|---|
| `NAME.safetensors` | the LoRA of the last step, with kohya's names, alpha and metadata: what A1111, ComfyUI and diffusers load |
| `README.md`, `card/` | its card: what it is, words that call it, settings, pictures ([card](../07_card.ipynb)) |
| `NAME.comfyui.json` | a graph that draws with it, to drop on ComfyUI's window ([workflow](../06_workflow.ipynb)) |
| `best/` | the best step by the validation loss; its LoRA, where that is not the last step |
| `diffusers/` | the LoRA as diffusers writes it |
| `config.json` | every setting, enough to run it again |
| `metrics.jsonl` | a row for each logged step, and for each validation |
| `now.json` | the step it is at, for who watches; a file `stop` beside it asks the run to stop |
| `samples/` | the same prompts, drawn at each checkpoint |
| `loras/` | a LoRA of each checkpoint, to compare |
| `checkpoints/step-000500/` | all that an exact resume needs, with checksums |
| `left_out.jsonl` | pictures that could not be used, with the reason |
| `last_good/` | the last sound weights of a run whose loss was no number |

[How do I stop a run, and resume it?](../howto/resume.ipynb) shows such a folder.

## Modules

A module is written, explained, shown and tested in one notebook, and may import only from modules whose notebook comes before its own. So a newcomer finds any line by asking which step it belongs to.
The modules for pictures, datasets, captions under review and the command load no PyTorch when they are imported.

| module | what it does |
|---|---|''')
print('\n'.join(filter(None, map(module_row, sorted(get_config().nbs_path.glob('[0-9]*.ipynb'))))))
print('''
## What is never done

- No code in a file is run: of a `.ckpt` only tensors are read, a captioner's own code only with `--trust_remote_code`, and `.safetensors` is the only form that weights are written in.
- Nothing is sent anywhere but by `automode push`, which says first what it would send, and by `--log_with wandb`; otherwise the network is used only to fetch a model or a picture that was named.
- A picture is never changed, and what a person wrote is never overwritten.''')
