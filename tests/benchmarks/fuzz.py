"""Damaged and hostile files: each reader gets thousands of broken ones, and must read them or raise a `Problem`

    python tests/benchmarks/fuzz.py [READER ...] [--mutations 2000] [--seed 0] [--keep FOLDER]
    python tests/benchmarks/fuzz.py ckpt --at 17          read mutation 17 alone, in this process, with its traceback

Each reader works in a process of its own, with bounded memory and time for each file. Ends with 1 if anything but success or a `Problem` came out.
"""
import argparse, io, json, math, os, random, resource, select, shutil, signal, struct, subprocess, sys, tempfile, time, traceback, warnings, zipfile, zlib
from contextlib import suppress
from pathlib import Path

os.environ |= {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}
SECONDS = 10.           # for one file
MEMORY = 1_500          # MB more than before the first file
ODD = [None, True, -1, 0, 1, 2**31, 2**63, 10**19, 10**300, -1e308, 1e-320, float('nan'), float('inf'), '', 'x', 'x'*70_000, '\ud83d', '\0', '../../etc/passwd', '/dev/zero', '~',
       '\x1b[2J\u202e', '9'*5000, [], {}, [[]], [None]*3, {'': {}}, {'a': [1, {'b': None}]}, ['x', 1], [1e308, 1e308]]
RAW = ['9'*5000, '1e999', '-1e999', '['*9000, '{"a":'*9000, '['*300 + ']'*300, 'NaN', '"\\ud83d"', '1'*400, '"\\u0000"', '-0', '0x10', "'a'", 'tru', '1e400', '""', '\ufeff{}', '/*']


# --- mutations

def mutate_json(data, rng):
    "Replace, take away or add something in JSON; now and then something that `json.dumps` would not write"
    value = json.loads(data)
    spots = []
    def visit(box):
        for key in (list(box) if isinstance(box, dict) else range(len(box))):
            spots.append((box, key))
            if isinstance(box[key], (dict, list)): visit(box[key])
    if isinstance(value, (dict, list)): visit(value)
    marks = {}
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        if not spots: break
        (box, key), kind = rng.choice(spots), rng.random()
        try:
            if kind < .5: box[key] = rng.choice(ODD)
            elif kind < .65: box[key] = f'@{len(marks)}@'; marks[f'"@{len(marks)}@"'] = rng.choice(RAW)
            elif kind < .75: del box[key]
            elif kind < .85 and isinstance(box, dict): box[rng.choice(['', 'text', '__proto__', 'x'*999, '\0', key + ' ', 'shape', 'dtype'])] = box.pop(key)
            elif kind < .95: box[key] = [box[key]]
            else: box[key] = rng.choice(spots)[0]
        except (KeyError, IndexError): pass
    try: text = json.dumps(value)
    except (ValueError, RecursionError): return mutate_bytes(data, rng)
    for mark, raw in marks.items(): text = text.replace(mark, raw)
    return text.encode('utf-8', 'surrogatepass')

def mutate_jsonl(data, rng):
    "Change some rows, or their order"
    rows = data.splitlines()
    for _ in range(rng.choice([1, 2, 4])):
        n = rng.randrange(len(rows))
        rows[n] = rng.choice([mutate_json, mutate_json, mutate_json, mutate_bytes])(rows[n], rng) if rows[n].startswith(b'{') else rows[n]
    if rng.random() < .1: rng.shuffle(rows)
    if rng.random() < .1: rows.insert(rng.randrange(len(rows)), rng.choice(RAW).encode())
    return b'\n'.join(rows)

def mutate_toml(data, rng):
    "Replace values in TOML"
    lines, raw = data.decode().splitlines(), ['5', '-1', '1e999', '9'*5000, '"x"', '[]', '[['*900 + ']]'*900, '{a = {}}', 'nan', 'true', '""', '"""', '1979-05-27', '[1, "a"]',
                                              '"\\ud83d"', '"."', '"nowhere"', '"a/../b"', '{' + 'a.'*2000 + 'a = 1}', '10000000000', '"\\u0000"', '0.5', '[{}]', "'.'"]
    for _ in range(rng.choice([1, 1, 2, 4])):
        n = rng.randrange(len(lines))
        if '=' in lines[n] and rng.random() < .8: lines[n] = f"{lines[n].split('=')[0]}= {rng.choice(raw)}"
        else: lines.insert(n, rng.choice([lines[n], '[[datasets]]', '[datasets]', '[general]', '[[datasets.subsets]]', 'a = 1', '['*500, 'image_dir = 3', 'num_repeats = [1]', '=']))
    return '\n'.join(lines).encode('utf-8', 'surrogatepass')

def mutate_safetensors(data, rng, metadata=False):
    "Change the header of a safetensors file, its metadata alone if asked, or what the first 8 bytes say"
    size = int.from_bytes(data[:8], 'little')
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    if metadata:
        said = header.setdefault('__metadata__', {})
        for key in rng.sample(sorted(said), min(len(said), rng.choice([1, 1, 2]))):
            inner = rng.random() < .5 and said[key][:1] in ('{', '[')
            said[key] = mutate_json(said[key].encode(), rng).decode('utf-8', 'replace') if inner else rng.choice([rng.choice(RAW), *[o for o in ODD if isinstance(o, str)], 'x', '16', 'nan', '-1', '{}', '[5]'])
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, 'little') + text + body
    if rng.random() < .6: return mutate_tensors(data, rng)
    text = mutate_json(data[8:8 + size], rng)
    length = rng.choice([len(text)]*6 + [0, 2**63, len(text) + 1, 10**9])
    return length.to_bytes(8, 'little') + text + rng.choice([body]*4 + [b'', body[:7]])

WIDTHS = dict(F64=8, F32=4, F16=2, BF16=2, I64=8, I32=4, I16=2, I8=1, U8=1, BOOL=1, F8_E4M3=1, F8_E5M2=1)

def mutate_tensors(data, rng):
    "Change tensors of a safetensors file (name, shape, dtype, values), and write it as it should be"
    size = int.from_bytes(data[:8], 'little')
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    said = header.pop('__metadata__', {})
    tensors = [[name, o['dtype'], o['shape'], body[slice(*o['data_offsets'])]] for name, o in header.items()]
    for _ in range(rng.choice([1, 1, 2, 3])):
        one = rng.choice(tensors)
        name, dtype, shape, values = one
        kind = rng.randrange(7)
        if kind == 0: one[0] = rng.choice([name + '.x', name.split('.')[0], name.replace('.weight', ''), name.replace('down', 'up'), name.replace('lora_', 'hada_w1_'), 'x', '.', '', name.rpartition('.')[0] + '.dora_scale',
                                           name.rpartition('.')[0] + '.alpha', name.replace('mid_block', 'down_blocks_9'), 'a'*3000, '\0', name.replace('attn1', 'attn2'), 'bundle_emb.x', 'lora_te_' + name])
        elif kind == 1 and shape: one[2] = rng.choice([shape[::-1], [math.prod(shape)], [*shape, 1, 1], [1, *shape], shape[:-1] + [1, shape[-1]]])
        elif kind == 2: one[1:] = [new := rng.choice(sorted(WIDTHS)), rng.choice([[0], [0, 4], [4, 0], [], [1], [2, 3], [1, 1, 1, 1, 1], [7, 7]]), b'']; one[3] = rng.randbytes(WIDTHS[new]*math.prod(one[2]))
        elif kind == 3: one[1] = rng.choice([o for o, width in WIDTHS.items() if width == WIDTHS[dtype]])
        elif kind == 4: one[3] = (rng.choice([b'\xff', b'\0', b'\x7f\x80', b'\x7f\x7f', b'\xc0\x7f\0\0'])*len(values))[:len(values)]
        elif kind == 5 and len(tensors) > 1: tensors.remove(one)
        else: tensors.append([name + rng.choice(['2', '.alpha', '_x']), dtype, shape, values])
    header, body = {'__metadata__': said} if said else {}, b''
    for name, dtype, shape, values in tensors:
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=[len(body), len(body) + len(values)])
        body += values
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, 'little') + text + body

def mutate_zip(data, rng):
    "Change the pickle or another file in a checkpoint, with sound checksums around it"
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w') as new:
        for name in old.namelist():
            part = old.read(name)
            if name.endswith('.pkl') or rng.random() < .1: part = mutate_pickle(part, rng) if name.endswith('.pkl') else mutate_bytes(part, rng)
            if rng.random() < .02: continue
            new.writestr(name, part)
            if rng.random() < .02: new.writestr(name, part)
    return out.getvalue()

def mutate_pickle(data, rng):
    "Change opcodes and values of a pickle"
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, kind = rng.randrange(len(data)), rng.random()
        if kind < .3: data[at] = rng.choice(b'(.0125BCFGIJKLMNPQRSTUVX])Nacdeghijlopqrstu}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94')
        elif kind < .5: data[at:at] = rng.choice([b'(', b'0', b'2', b')', b']', b'}', b'N', b't', b'K\xff', b'J\xff\xff\xff\x7f', b'X\x03\0\0\0a/b', b'\x8a\xff' + b'\xff'*255, b's', b'u', b'e', b'h\0',
                                                  b'\x85'*200, b'(lp9\n', b'R', b'b', b'Q', b'\x8e' + b'\xff'*8, b'B\xff\xff\xff\x7f', b'ccollections\nOrderedDict\n', b'cos\nsystem\n'])
        elif kind < .7: data[at:at + rng.choice([1, 2, 4, 8])] = rng.choice([b'\xff'*4, b'\0'*4, b'\x7f' + b'\xff'*3, b'K\x05', b'G' + struct.pack('>d', rng.choice([1e308, math.nan, -1.]))])
        elif kind < .85: data[at:at] = data[(other := rng.randrange(len(data))):other + rng.randrange(1, 60)]
        else: del data[at:at + rng.randrange(1, 20)]
        if not data: break
    return bytes(data)

def mutate_png(data, rng):
    "Change a chunk of a PNG, and give it a sound checksum"
    chunks, at = [], 8
    while at + 12 <= len(data):
        n = int.from_bytes(data[at:at + 4], 'big')
        chunks.append((data[at + 4:at + 8], data[at + 8:at + 8 + n]))
        at += 12 + n
    n = rng.randrange(len(chunks))
    name, body = chunks[n]
    if name == b'IHDR':
        body = struct.pack('>II', *(rng.choice([0, 1, 64, 2**15, 2**31 - 1, 12_600]) for _ in range(2))) + bytes([rng.choice([1, 8, 16, 255]), rng.choice([0, 2, 3, 4, 6, 9])]) + body[10:]
    elif rng.random() < .5: chunks.insert(n, (rng.choice([b'tEXt', b'zTXt', b'iCCP', b'gAMA', b'tRNS', b'PLTE', b'eXIf', b'acTL', b'iTXt']), rng.choice([b'', b'\0'*9, b'x\0\0' + zlib.compress(b'\0'*10**6), body])))
    else: body = mutate_bytes(body or b'\0', rng)
    chunks[min(n, len(chunks) - 1)] = name, body
    return data[:8] + b''.join(struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body)) for name, body in chunks)

def mutate_bytes(data, rng, others=()):
    "Flip bits, cut, repeat, put in, exchange numbers, or join two files"
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not data: break
        at, kind = rng.randrange(len(data)), rng.randrange(9)
        if kind < 3: data[at] ^= 1 << rng.randrange(8)
        elif kind == 3: del data[at:]
        elif kind == 4: del data[at:at + rng.randrange(1, 64)]
        elif kind == 5: data[at:at] = data[at:at + rng.randrange(1, 64)]*rng.choice([1, 2, 100])
        elif kind == 6: data[at:at + 4] = rng.choice([b'\xff'*4, b'\0'*4, b'\x7f\xff\xff\xff', b'\xff\xff\xff\x7f'])
        elif kind == 7: data[at:at] = rng.randbytes(rng.randrange(1, 32))
        elif others: other = rng.choice(others); data[at:] = other[rng.randrange(len(other)):]
    return bytes(data)

def mutate(sample, rng, others=()):
    "A damaged copy of `sample`, by bytes or by its structure"
    name, data = sample
    known = dict(json=mutate_json, jsonl=mutate_jsonl, toml=mutate_toml, safetensors=mutate_safetensors, ckpt=mutate_zip, png=mutate_png)
    kind = name.rpartition('.')[2]
    if kind == 'safetensors' and name.startswith('metadata'): return mutate_safetensors(data, rng, metadata=True)
    try:
        if kind in known and rng.random() < .75: return known[kind](data, rng)
    except (ValueError, TypeError, IndexError, struct.error, zipfile.BadZipFile, RecursionError, OverflowError): pass
    return mutate_bytes(data, rng, others)


# --- readers: files to damage, and what reads them

def each(*steps):
    "Take every step, also after one that raises a `Problem`; the first is raised in the end"
    from automode.core import Problem
    found = []
    for o in steps:
        try: o()
        except Problem as e: found.append(e)
    if found: raise found[0]

def small_images(folder):
    "Two images, so that a dataset has some"
    from PIL import Image
    for n in range(2): Image.new('RGB', (16, 16), (200, 90*n, 40)).save(folder/f'{n}.png')

class Rows:
    "metadata.jsonl, through everything that shows and changes captions"
    def samples(self, folder):
        small_images(folder)
        ours = [dict(file_name=f'{n}.png', text='1girl, white shirt, ;)' if n else 'a fox on grass', auto_text='a fox', captioner='starter', prompt='a', score=-.5, status='auto', repeats=2,
                     captions=['a fox', 'a dog'], focus=[.5, .5], source='https://example.org/a.png') for n in range(2)]
        theirs = [dict(file_name='0.png', text='a fox', score='high', status='ok', mood=['glad', {'very': 3}]), dict(file_name='1.png', prompt='a dog')]
        return [('metadata.jsonl', b'\n'.join(json.dumps(o).encode() for o in rows) + b'\n') for rows in (ours, theirs)]

    def read(self, path):
        from automode.data.buckets import read_focus
        from automode.data.dataset import Dataset
        from automode.captions.edits import change_captions, count_words
        from automode.report import captions_section
        for o in (path.parent/'rejected.jsonl', *path.parent.glob('*.bak*')): o.unlink(missing_ok=True)
        dataset = Dataset.read(path.parent)
        dataset.summary(), dataset._repr_html_(), captions_section(dataset), repr(count_words(dataset))
        for row in dataset: read_focus(row)
        str(change_captions(path.parent, find='a', replace='b', drop='shirt', drop_repeats=True, put_token=True, below=0, dry_run=True))
        dataset.write()
        Dataset.read(path.parent).write()

class History:
    "The history of changes, and the notes beside it"
    def samples(self, folder):
        from automode.core import write_whole
        from automode.captions.edits import change_captions
        small_images(folder)
        write_whole(folder/'metadata.jsonl', '{"file_name": "0.png", "text": "a fox"}\n{"file_name": "1.png", "text": "a dog"}\n')
        for text in ('x', 'y'): change_captions(folder, prefix=text)
        self.captions = (folder/'metadata.jsonl').read_bytes()
        return [('.automode/history.jsonl', (folder/'.automode/history.jsonl').read_bytes())]

    def read(self, path):
        from automode.captions.history import read_history, redo, undo
        (path.parent.parent/'metadata.jsonl').write_bytes(self.captions)
        each(lambda: read_history(path.parent.parent), *(lambda step=step: str(step(path.parent.parent)) for step in (undo, undo, redo, redo)))

class Captions:
    "Files of captions, for `automode edit --from`"
    def samples(self, folder):
        return [('a.json', b'{"a.png": "a fox", "b.png": "a dog"}'), ('a.jsonl', b'{"file_name": "a.png", "text": "a fox"}\n{"file_name": "b.png", "text": "a dog"}'),
                ('a.csv', b'file_name,text\na.png,"a fox, red"\nb.png,a dog\n')]

    def read(self, path):
        from automode.captions.edits import read_captions
        read_captions(path)

class Lora:
    "LoRA files: info, and conversion"
    metadata = False
    def samples(self, folder):
        import torch
        from safetensors.torch import save
        layer = 'lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q'
        said = dict(ss_network_dim='4', ss_network_alpha='2', ss_tag_frequency='{"a": {"fox": 3}}', ss_steps='10', ss_network_args='{"conv_dim": 4}', ss_sd_model_name='x', ss_resolution='(64, 64)',
                    ss_base_model_version='sd_v1', **{'modelspec.architecture': 'stable-diffusion-v1/lora', 'modelspec.resolution': '512x512', 'modelspec.trigger_phrase': 'sks'})
        part = layer.replace('lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q', 'unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q')
        settings = json.dumps({'unet.r': 4, 'unet.lora_alpha': 2, 'unet.alpha_pattern': {'to_q': 2}, 'unet.rank_pattern': {}, 'unet.use_rslora': False})
        kohya = {f'{layer}.lora_down.weight': torch.ones(4, 8), f'{layer}.lora_up.weight': torch.ones(8, 4), f'{layer}.alpha': torch.tensor(2.)}
        peft = {f'{part}.lora_A.weight': torch.ones(4, 8), f'{part}.lora_B.weight': torch.ones(8, 4)}
        hada = {f'{layer}.{k}': torch.ones(s) for k, s in dict(hada_w1_a=(8, 2), hada_w1_b=(2, 8), hada_w2_a=(8, 2), hada_w2_b=(2, 8), alpha=()).items()}
        lokr = {f'{layer}.{k}': torch.ones(s) for k, s in dict(lokr_w1=(2, 2), lokr_w2_a=(4, 2), lokr_w2_b=(2, 4), alpha=()).items()}
        made = [(kohya, said), (peft, said | dict(lora_adapter_metadata=settings)), (hada, said), (lokr, said)]
        return [(f"{'metadata' if self.metadata else 'lora'}{n}.safetensors", save(*o)) for n, o in enumerate(made)]

    def read(self, path):
        from automode.lora.tools import convert, info
        each(lambda: (str(found := info(path)), found._repr_html_()), *(lambda to=to: convert(path, path.with_name('out.safetensors'), to) for to in ('diffusers', 'kohya')))

class Metadata(Lora):
    "The metadata of LoRA files, the rest sound"
    metadata = True

class Ckpt:
    "Base models as .ckpt (both of PyTorch's forms) and .safetensors"
    def samples(self, folder):
        import torch
        from safetensors.torch import save
        state = {'model.diffusion_model.input_blocks.0.0.weight': torch.ones(8, 4, 3, 3), 'model.diffusion_model.middle_block.1.norm.bias': torch.zeros(8), 'cond_stage_model.x': torch.ones(2).half(),
                 'first_stage_model.decoder.conv_in.weight': torch.ones(2, 3).to(torch.bfloat16)}
        def saved(value, **how):
            with io.BytesIO() as f: torch.save(value, f, **how); return f.getvalue()
        nested = {'state_dict': state, 'epoch': 3, 'callbacks': {'a': [1, (2, 3)]}, 'hyper_parameters': {'lr': 1e-4}}
        return [('base.ckpt', saved(nested)), ('plain.ckpt', saved(state)), ('old.ckpt', saved(nested, _use_new_zipfile_serialization=False)), ('base.safetensors', save(state, {'modelspec.resolution': '512x512'}))]

    def read(self, path):
        import torch
        from automode.check import read_resolution
        from automode.models.ckpt import read_tensors
        from automode.models.ldm_files import read_single_file
        from automode.core import Problem
        state, _ = read_tensors(path)
        sum(float(o.flatten()[:1].float().sum()) for o in state.values() if o.numel())
        read_resolution(path)
        with suppress(Problem): read_single_file(path, torch.float32)       # too little for a whole model

class Images:
    "Images of several formats"
    def samples(self, folder):
        import numpy as np
        from PIL import Image, ImageCms
        pixels = (np.arange(24*20*3).reshape(24, 20, 3) % 251).astype('uint8')
        image, grey = Image.fromarray(pixels), Image.fromarray((pixels[..., 0].astype('uint16')*257))
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
        exif = Image.Exif(); exif[274] = 6
        several = dict(save_all=True, append_images=[image.rotate(90)], duration=40)
        out = []
        for name, o, how in (('a.png', image, dict(icc_profile=profile, exif=exif)), ('grey.png', grey, {}), ('palette.png', image.quantize(16), dict(transparency=0)), ('a.jpg', image, dict(exif=exif, icc_profile=profile)),
                             ('cmyk.jpg', image.convert('CMYK'), {}), ('a.webp', image, dict(exif=exif)), ('a.gif', image.quantize(16), several), ('a.bmp', image, {}), ('a.tiff', image, dict(compression='tiff_lzw')),
                             ('grey.tif', grey, {}), ('apng.png', image, several), ('alpha.webp', image.convert('RGBA'), several), ('a.tga', image, {}), ('a.ico', image.resize((16, 16)), {}), ('a.jp2', image, {})):
            with io.BytesIO() as f:
                try: o.save(f, dict(jpg='JPEG', tif='TIFF', jp2='JPEG2000').get(name.split('.')[1], name.split('.')[1].upper()), **how)
                except (OSError, KeyError, ValueError): continue                 # Pillow was built without it
                out.append((name, f.getvalue()))
        return out

    def read(self, path):
        from automode.data.images import open_image, image_size
        each(lambda: image_size(path), lambda: open_image(path), lambda: open_image(path, 'white', 8))

class Toml:
    "kohya's dataset TOML"
    def samples(self, folder):
        (folder/'10_sks dog').mkdir()
        small_images(folder/'10_sks dog')
        (folder/'10_sks dog/0.txt').write_text('a dog')
        return [('dataset.toml', f'''[general]
enable_bucket = true
caption_extension = ".txt"
shuffle_caption = true
keep_tokens = 1

[[datasets]]
resolution = 512
batch_size = 4

  [[datasets.subsets]]
  image_dir = "{(folder/'10_sks dog').as_posix()}"
  num_repeats = 10
  class_tokens = "sks dog"
  flip_aug = true
  caption_dropout_rate = 0.1
  caption_prefix = "x "
'''.encode())]

    def read(self, path):
        from automode.convert import convert
        from automode.formats.reading import detect_format
        shutil.rmtree(path.parent/'out', ignore_errors=True)
        each(lambda: detect_format(path), lambda: convert(path, path.parent/'out', to='automode'))

class Config:
    "config.json of a run, to run it again and to report about"
    def samples(self, folder):
        from dataclasses import asdict
        from automode.training.config import TrainConfig
        (folder/'run').mkdir()
        self.folder = folder
        plain = asdict(TrainConfig()) | dict(dataset='x', base='starter', name='inky', num_images=4, held_out=['a.png'], background='white', samples_a_step=4)
        return [('run/config.json', json.dumps(plain).encode()), ('run/config.json', json.dumps({k: v for k, v in plain.items() if v is not None}).encode())]

    def read(self, path):
        from automode.training.config import TrainConfig, read_settings_of
        from automode.report import write_report
        each(lambda: TrainConfig(**{k: v for k, v in read_settings_of(path, note=lambda told: None).items() if k in TrainConfig.__dataclass_fields__}), lambda: write_report(path.parent.parent))

READERS = dict(rows=Rows, history=History, captions=Captions, lora=Lora, metadata=Metadata, ckpt=Ckpt, images=Images, toml=Toml, config=Config)


# --- one process for each reader

def damaged(samples, reader, seed, n):
    "Mutation `n`: the name of its file, and its bytes"
    rng = random.Random(f'{seed}/{reader}/{n}')
    name, data = sample = samples[rng.randrange(len(samples))]
    return name, mutate(sample, rng, [o for _, o in samples])

def prepare(reader, folder):
    "The reader and its samples, read once whole, so that everything is imported"
    warnings.simplefilter('ignore')
    task = READERS[reader]()
    samples = task.samples(folder)
    for name, data in samples:
        (folder/name).write_bytes(data)
        try: task.read(folder/name)
        except Exception as e:
            if type(e).__name__ not in ('Problem', 'BadImage'): raise
    return task, samples

def read_each(task, samples, reader, folder, seed, first, last, begin=lambda n: None):
    "Read mutations `first` to `last`: what came of each, in how many seconds, and how much memory the process has taken"
    from automode.core import Problem
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for n in range(first, last):
        name, data = damaged(samples, reader, seed, n)
        (folder/name).write_bytes(data)
        begin(n)
        started, why = time.monotonic(), ''
        try: task.read(folder/name); kind = 'read'
        except Problem: kind = 'Problem'
        except BaseException as e:
            where = traceback.extract_tb(e.__traceback__)[-1]
            kind, why = 'other', f'{type(e).__name__}: {str(e)[:100]!r} ({Path(where.filename).name}:{where.lineno})'
        yield dict(n=n, kind=kind, why=why, seconds=time.monotonic() - started, mb=(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/1000)

def bound_memory():
    "Let this process have `MEMORY` MB more than it has"
    pages = Path('/proc/self/statm')
    if pages.exists(): resource.setrlimit(resource.RLIMIT_AS, (int(pages.read_text().split()[0])*resource.getpagesize() + MEMORY*10**6,)*2)

def work(reader, seed, first, last):
    "Read mutations `first` to `last`, and tell of each on a line"
    tell = os.fdopen(os.dup(1), 'w')
    with open(os.devnull, 'w') as null: os.dup2(null.fileno(), 1); os.dup2(null.fileno(), 2)
    folder = Path(tempfile.mkdtemp(prefix='fuzz-'))
    try:
        task, samples = prepare(reader, folder)
        bound_memory()
        for row in read_each(task, samples, reader, folder, seed, first, last, lambda n: print('begin', n, file=tell, flush=True)):
            print('end', json.dumps(row), file=tell, flush=True)
    finally: shutil.rmtree(folder, ignore_errors=True)

def read_here(reader, mutations, seed):
    "Read all mutations in this process: quicker for few, and without a bound on time"
    folder = Path(tempfile.mkdtemp(prefix='fuzz-'))
    try: return list(read_each(*prepare(reader, folder), reader, folder, seed, 0, mutations))
    finally: shutil.rmtree(folder, ignore_errors=True)

def fuzz(reader, mutations, seed):
    "Let processes read all mutations; one that dies or hangs is named, and the next goes on after it"
    rows, n = [], 0
    while n < mutations:
        process = subprocess.Popen([sys.executable, __file__, reader, '--seed', str(seed), '--mutations', str(mutations), '--first', str(n)], stdout=subprocess.PIPE, start_new_session=True)
        begun, limit, rest = None, 120., b''                                     # the first line takes all imports
        while True:
            ready, *_ = select.select([process.stdout], [], [], limit)
            data = os.read(process.stdout.fileno(), 65536) if ready else b''
            if not data: break
            *lines, rest = (rest + data).split(b'\n')
            for line in lines:
                word, _, said = line.partition(b' ')
                if word == b'begin': begun, limit = int(said), SECONDS
                else: rows.append(json.loads(said)); begun, n = None, rows[-1]['n'] + 1
        hung = not ready
        if hung: os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        if begun is None and n < mutations: raise SystemExit(f'{reader}: the process did not begin, or ended with {code}; try: python {sys.argv[0]} {reader} --at {n}')
        if begun is not None:
            why = f'takes more than {SECONDS:g} s' if hung else f'the process died (code {code})'
            rows.append(dict(n=begun, kind='other', why=why, seconds=SECONDS if hung else 0., mb=0.))
            n = begun + 1
    return rows

def read_one(reader, seed, n, keep):
    "Read one mutation here"
    folder = Path(tempfile.mkdtemp(prefix='fuzz-'))
    try:
        task, samples = prepare(reader, folder)
        name, data = damaged(samples, reader, seed, n)
        (folder/name).write_bytes(data)
        if keep: shutil.copy(folder/name, keep); print(f'kept as {keep}')
        print(name, len(data), 'bytes:', data[:300])
        task.read(folder/name)
        print('read')
    finally: shutil.rmtree(folder, ignore_errors=True)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('readers', nargs='*', metavar='READER', help=', '.join(READERS))
    parser.add_argument('--mutations', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--at', type=int, help='read this mutation alone')
    parser.add_argument('--keep', help='with --at: where to write the damaged file')
    parser.add_argument('--here', action='store_true', help='in this process, without bounds; quicker for few mutations')
    parser.add_argument('--first', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := [o for o in args.readers if o not in READERS]: parser.error(f"there is no reader {unknown[0]}; say one of {', '.join(READERS)}")
    if args.first is not None: return work(args.readers[0], args.seed, args.first, args.mutations)
    if args.at is not None: return read_one(args.readers[0], args.seed, args.at, args.keep)
    print(f"{'reader':10} {'mutations':>9} {'read':>6} {'Problems':>8} {'others':>6} {'worst s':>8} {'peak MB':>8}")
    bad = []
    for reader in args.readers or READERS:
        rows = (read_here if args.here else fuzz)(reader, args.mutations, args.seed)
        count = {kind: sum(o['kind'] == kind for o in rows) for kind in ('read', 'Problem', 'other')}
        print(f"{reader:10} {len(rows):9} {count['read']:6} {count['Problem']:8} {count['other']:6} {max(o['seconds'] for o in rows):8.2f} {max(o['mb'] for o in rows):8.0f}", flush=True)
        bad += [(reader, o) for o in rows if o['kind'] == 'other']
    for reader, o in bad[:40]: print(f"{reader} --at {o['n']} --seed {args.seed}: {o['why']}")
    if len(bad) > 40: print(f'and {len(bad) - 40} more')
    return int(bool(bad))

if __name__ == '__main__': sys.exit(main())
