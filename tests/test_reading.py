"""Folders as people have them: every command reads the same, says what it left out, and loses no word"""
import json, shlex, shutil

import pytest
from PIL import Image

from automode.cli.commands import main
from automode.core import asset_path
from automode.data.dataset import Dataset
from automode.inputs.examples import find_examples

SAMPLES = sorted(asset_path('samples', 'style').glob('*.png'))
WORDS = 'my own words'


def images(folder, *names):
    "A folder with a sample image under each name"
    for n, name in enumerate(names):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES[n], folder/name)
    return folder

def write_rows(path, rows):
    path.write_text(''.join(json.dumps(o) + '\n' for o in rows))
    return path

def read_rows(folder): return [json.loads(o) for o in (folder/'metadata.jsonl').read_text().splitlines()]

def texts(folder): return {o['file_name']: o['text'] for o in read_rows(folder)}

def said(capsys, *args, code=0):
    "What `automode *args` prints"
    assert main([str(o) for o in args]) == code
    out, err = capsys.readouterr()
    return out + err

def prompts(folder): return [o.prompts or (o.prompt,) for o in find_examples(folder)[0]]

def how_read(text): return next(o for o in text.splitlines() if o.startswith('read as: '))


def test_a_column_of_captions_and_every_other_column_stay(tmp_path, capsys):
    rows = [dict(file_name=f'{k}.png', prompt=f'{WORDS} {k}', score='high', status='ok') for k in range(2)]
    write_rows(images(tmp_path/'in', '0.png', '1.png')/'metadata.jsonl', rows)
    assert 'prompt' in how_read(said(capsys, 'caption', tmp_path/'in'))
    assert [o['text'] for o in read_rows(tmp_path/'in')] == [o['prompt'] for o in rows]
    assert all(old.items() <= new.items() for old, new in zip(rows, read_rows(tmp_path/'in')))
    said(capsys, 'caption', tmp_path/'in')
    assert all(old.items() <= new.items() for old, new in zip(rows, read_rows(tmp_path/'in'), strict=True))

def test_a_row_without_its_image_stays(tmp_path, capsys):
    rows = [dict(file_name=f'{k}.png', prompt=f'{WORDS} {k}') for k in range(3)]
    write_rows(images(tmp_path/'in', '0.png', '1.png')/'metadata.jsonl', rows)
    assert '2.png' in said(capsys, 'caption', tmp_path/'in')
    assert [o['text'] for o in read_rows(tmp_path/'in')] == [o['prompt'] for o in rows]

def test_values_of_others_are_not_captioned_over(tmp_path, capsys):
    table = write_rows(images(tmp_path/'in', '0.png', '1.png')/'metadata.jsonl',
                       [dict(file_name='0.png', text=WORDS, score=.91), dict(file_name='1.png', text='', score=.5, status='bad')])
    before = table.read_bytes()
    assert 'score and status of yours for 1 image' in said(capsys, 'caption', tmp_path/'in', code=1)
    assert table.read_bytes() == before


def put_csv(folder): (folder/'metadata.csv').write_text(f'file_name,text\n0.png,{WORDS} 0\n1.png,{WORDS} 1\n')
def put_semicolons(folder): (folder/'metadata.csv').write_text(f'Image;Caption\n0.png;{WORDS} 0\n1.png;{WORDS} 1\n')
def put_column(folder): write_rows(folder/'metadata.jsonl', [dict(file_name=f'{k}.png', caption=f'{WORDS} {k}') for k in range(2)])
def put_kohya(folder): (folder/'meta_cap.json').write_text(json.dumps({f'/home/me/{k}.png': dict(caption=f'{WORDS} {k}') for k in range(2)}))
def put_names(folder): [(folder/o).write_text(f'{WORDS} {n}') for n, o in enumerate(('0.png.txt', '1.TXT'))]
def put_parquet(folder):
    import pyarrow, pyarrow.parquet
    table = pyarrow.table(dict(file_name=['0.png', '1.png'], text=[f'{WORDS} 0', f'{WORDS} 1']))
    pyarrow.parquet.write_table(table, folder/'metadata.parquet')

@pytest.mark.parametrize('put', [put_csv, put_semicolons, put_column, put_kohya, put_names, put_parquet])
def test_all_commands_see_the_same_captions(put, tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png', '1.png')
    put(folder)
    kept = {o.name: o.read_bytes() for o in folder.iterdir()}
    assert prompts(folder) == [(f'{WORDS} 0',), (f'{WORDS} 1',)]
    checked = said(capsys, 'check', folder)
    assert 'without a caption' not in checked
    assert how_read(checked) == how_read(said(capsys, 'caption', folder))
    assert list(texts(folder).values()) == [f'{WORDS} 0', f'{WORDS} 1']
    assert {o: (folder/o).read_bytes() for o in kept if o != 'metadata.jsonl'} == {o: d for o, d in kept.items() if o != 'metadata.jsonl'}
    assert prompts(folder) == [(f'{WORDS} 0',), (f'{WORDS} 1',)]

def test_two_tables_and_a_row_that_is_there_twice(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png', '1.png')
    write_rows(folder/'metadata.jsonl', [dict(file_name='0.png', text='first'), dict(file_name='0.png', text='second')])
    (folder/'metadata.csv').write_text('file_name,text\n0.png,third\n1.png,fourth\n')
    shown = said(capsys, 'caption', folder)
    assert texts(folder) == {'0.png': 'first', '1.png': 'fourth'}
    assert 'second' in shown and '0.png in metadata.csv' in how_read(shown)

def test_what_is_not_used_is_named(tmp_path, capsys):
    folder = images(tmp_path/'in', '10_cat/0.png', '5_dog/1.png', 'a/2.png', 'b/3.png', 'c/4.png')
    (folder/'a'/'out.png').symlink_to(SAMPLES[0])
    shown = how_read(said(capsys, 'check', folder))
    assert '2 folders that begin with a number' in shown and '10_cat' in shown and '1 file because it is a link' in shown

def test_masks_and_further_captions_are_named_where_a_format_has_no_room(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png', '1.png')
    for k in range(2): (folder/f'{k}.txt').write_text('a small red fox\nthe red fox from afar')
    Image.new('L', (64, 64), 255).save(folder/'0-masklabel.png')
    shown = said(capsys, 'convert', folder, tmp_path/'out', '--to', 'kohya')
    assert '1 mask without a place in kohya' in shown and '2 images of whose captions only the first' in shown

def test_splits(tmp_path, capsys):
    folder = images(tmp_path/'in', 'train/0.png', 'train/1.png')
    write_rows(folder/'train'/'metadata.jsonl', [dict(file_name=f'{k}.png', text=f'{WORDS} {k}') for k in range(2)])
    said(capsys, 'caption', folder)
    assert texts(folder) == {'train/0.png': f'{WORDS} 0', 'train/1.png': f'{WORDS} 1'}

def test_lines_after_the_first_are_trained_on(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png', '1.png')
    (folder/'0.txt').write_text('1girl\nsolo\nblue eyes\nred hat\n')
    (folder/'1.txt').write_text('A fox sits.\n\nIt looks at the moon over a lake.\n')
    expected = ['1girl, solo, blue eyes, red hat', 'A fox sits. It looks at the moon over a lake.']
    assert prompts(folder) == [(o,) for o in expected]
    said(capsys, 'caption', folder)
    assert list(texts(folder).values()) == expected

def test_folder_names_are_captions_only_where_nothing_writes_better_ones(tmp_path, capsys):
    folder = images(tmp_path/'in', '10_sks dog/0.png', '10_sks dog/1.png')
    (folder/'10_sks dog'/'0.txt').write_text(WORDS)
    assert [(o.prompt, o.repeats) for o in find_examples(folder)[0]] == [(WORDS, 10), ('sks dog', 10)]
    said(capsys, 'caption', folder)
    first, second = read_rows(folder)
    assert (first['text'], first['repeats'], second['repeats']) == (WORDS, 10, 10)
    assert second['captioner'] and second['text'] == second['auto_text']

def test_words_that_changed_outside_are_told_and_taken(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png', '1.png')
    (folder/'0.txt').write_text('old words')
    said(capsys, 'caption', folder)
    before = texts(folder)
    (folder/'0.txt').write_text('NEW words zero')
    (folder/'1.txt').write_text('NEW words one')
    advice = f'automode edit {folder} --from {folder}'
    shown = said(capsys, 'caption', folder)
    assert '0.png' in shown and '1.png' in shown and advice in shown
    shown = said(capsys, 'check', folder)
    assert '0.png: now "NEW words zero"' in shown and '1.png' in shown and '--from' in shown
    assert any(advice in o for o in find_examples(folder)[2])
    assert texts(folder) == before
    said(capsys, 'edit', folder, '--from', folder, '--dry_run')
    assert texts(folder) == before
    assert 'leave out --below' in said(capsys, 'edit', folder, '--from', folder, '--below', '0', code=1)
    said(capsys, 'edit', folder, '--from', folder)
    assert list(texts(folder).values()) == ['NEW words zero', 'NEW words one']
    assert '--from' not in said(capsys, 'check', folder)
    assert 'leave out --prefix' in said(capsys, 'edit', folder, '--undo', '--prefix', '', code=1)
    said(capsys, 'edit', folder, '--undo')
    assert texts(folder) == before

def test_words_that_changed_outside_of_a_copy(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png')
    (folder/'0.txt').write_text('old words')
    said(capsys, 'caption', folder, '--out', tmp_path/'out')
    (folder/'0.txt').write_text('new words')
    assert f"automode edit {tmp_path/'out'} --from {folder}" in said(capsys, 'caption', folder, '--out', tmp_path/'out')
    assert list(texts(tmp_path/'out').values()) == ['old words']
    said(capsys, 'edit', tmp_path/'out', '--from', folder)
    assert list(texts(tmp_path/'out').values()) == ['new words']

def test_what_is_left_out_is_named_and_strict_stops(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png')
    (folder/'lonely.txt').write_text('whose?')
    (folder/'scan.xyz').write_bytes(b'scan')
    shown = how_read(said(capsys, 'check', folder))
    assert 'left out' in shown and '.xyz' in shown and 'lonely.txt' in shown
    for command in ('caption', 'check', 'train', 'run'):
        assert 'lonely.txt' in said(capsys, command, folder, '--strict', code=1), command
    assert not (folder/'metadata.jsonl').exists()

def test_masks_are_not_images(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png')
    (folder/'0.txt').write_text(WORDS)
    Image.new('L', Image.open(folder/'0.png').size, 255).save(folder/'0-masklabel.png')
    assert len(prompts(folder)) == 1
    assert 'mask' in said(capsys, 'check', folder)
    assert find_examples(folder, masked_loss=folder)[0][0].mask == folder/'0-masklabel.png'

def test_tilde(tmp_path, capsys, monkeypatch):
    images(tmp_path/'home'/'in', '0.png')
    monkeypatch.setenv('HOME', str(tmp_path/'home'))
    (tmp_path/'here').mkdir()
    monkeypatch.chdir(tmp_path/'here')
    said(capsys, 'caption', '~/in', '--out=~/out')
    assert list(texts(tmp_path/'home'/'out').values()) and not list((tmp_path/'here').iterdir())

def test_a_caption_file_in_other_capitals(tmp_path, capsys):
    folder = images(tmp_path/'in', 'p7.png', 'q.png')
    (folder/'P7.TXT').write_text(WORDS)
    assert prompts(folder) == [(WORDS,)]
    shown = how_read(said(capsys, 'check', folder))
    assert '.txt files' in shown and 'P7.TXT' not in shown

@pytest.mark.parametrize('to', ['filenames', 'joepenna', 'everydream'])
def test_captions_as_file_names_are_read_back_whole(to, tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png', '1.png')
    words = ['dog', 'a cat / a hat_one: ' + 'very '*60 + 'long']
    for k in range(2): (folder/f'{k}.txt').write_text(words[k])
    said(capsys, 'convert', folder, tmp_path/'named', '--to', to)
    assert 'a dataset of automode' in how_read(said(capsys, 'check', tmp_path/'named'))
    assert sorted(prompts(tmp_path/'named')) == sorted((o,) for o in words)
    said(capsys, 'convert', tmp_path/'named', tmp_path/'back', '--to', 'automode')
    assert sorted(texts(tmp_path/'back').values()) == sorted(words)
    shutil.copy(SAMPLES[2], tmp_path/'named'/'a big dog.png')                 # added by its name
    said(capsys, 'convert', tmp_path/'named', tmp_path/'again', '--to', 'automode')
    assert texts(tmp_path/'again')['a big dog.png'] == 'a big dog'
    said(capsys, 'edit', tmp_path/'named', '--prefix', 'x ')
    assert sorted(o for o in texts(tmp_path/'named').values() if o) == sorted(f'x {o}' for o in words)

def test_words_that_were_never_read_are_told_apart(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png', '1.png')
    (folder/'0.txt').write_text('old words')
    said(capsys, 'caption', folder)
    (folder/'1.txt').write_text('late words')
    shown = said(capsys, 'caption', folder)
    assert '1 caption of' in shown and 'not read yet (1.png)' in shown and 'after being read' not in shown
    (folder/'0.txt').write_text('new words')
    assert 'after being read (0.png)' in said(capsys, 'caption', folder)
    shown = said(capsys, 'check', folder)
    assert 'after they were read: 1' in shown and 'never read: 1' in shown

def test_commands_to_copy_quote_paths(tmp_path, capsys):
    folder = images(tmp_path/"my 'own' images", '0.png')
    quoted = shlex.quote(str(folder))
    assert f'automode caption {quoted}' in said(capsys, 'train', folder, code=1)
    shown = said(capsys, 'caption', folder)
    assert f'automode check {quoted}' in shown and f'automode train {quoted}' in shown
    (folder/'0.txt').write_text(WORDS)
    assert f'automode edit {quoted} --from {quoted}' in said(capsys, 'caption', folder)

@pytest.mark.parametrize('name, text', [('captions.csv', 'file_name,text\n0.png,my own words\n'), ('captions.json', '{"0.png": "my own words"}')])
def test_a_table_of_another_name_comes_with_advice_that_works(name, text, tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png')
    (folder/name).write_text(text)
    shown = how_read(said(capsys, 'check', folder))
    assert ('call it metadata.csv' in shown) == name.endswith('csv')
    command = shown.partition('run automode ')[2]
    said(capsys, *shlex.split(command))
    assert texts(folder) == {'0.png': WORDS}

def test_a_column_that_may_hold_captions_is_offered(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png')
    write_rows(folder/'metadata.jsonl', [dict(file_name='0.png', caption_de='ein Hase', score=.9, status='ok', camera='a text')])
    shown = said(capsys, 'caption', folder, code=1)
    assert 'if their captions are in caption_de, call that column text' in shown and 'in camera' not in shown

def test_masks_go_to_onetrainer(tmp_path, capsys):
    folder = images(tmp_path/'in', 's/0.png', '1.png', '2.png')
    for o in ('s/0', '1', '2'): (folder/f'{o}.txt').write_text(WORDS)
    Image.new('L', (64, 64), 100).save(folder/'s'/'0-masklabel.png')
    Image.new('L', (64, 64), 200).save(folder/'1_mask.bmp')
    assert 'without a place' not in said(capsys, 'convert', folder, tmp_path/'out', '--to', 'onetrainer')
    assert '2 masks' in how_read(said(capsys, 'check', tmp_path/'out'))
    masks = {o.path.name: o.mask for o in find_examples(tmp_path/'out', masked_loss=tmp_path/'out')[0]}
    assert {k: o and (o.name, Image.open(o).getpixel((0, 0))) for k, o in masks.items()} == {
        's-0.png': ('s-0-masklabel.png', 100), '1.png': ('1-masklabel.png', 200), '2.png': None}
    assert '2 masks without a place in imagefolder' in said(capsys, 'convert', folder, tmp_path/'other', '--to', 'imagefolder')

def test_an_image_called_txt(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png', '1.png')
    for name in ('0.txt', 'x.txt'): shutil.copy(SAMPLES[2], folder/name)
    assert '1 binary file, not text (x.txt)' in how_read(said(capsys, 'check', folder))
    assert "0.txt' is not a text file" in said(capsys, 'convert', folder, tmp_path/'out', '--to', 'automode')

def test_counts_and_places_are_said_once(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png')
    said(capsys, 'caption', folder)
    table = folder/'metadata.jsonl'
    table.write_text(table.read_text() + 'broken{\n')
    shown = said(capsys, 'check', folder)
    assert 'checked 1 image, ' in shown
    assert next(o for o in shown.splitlines() if 'not JSON' in o).count('line 2') == 1
    shown = said(capsys, 'edit', folder, '--prefix', 'x ', '--dry_run')
    assert 'rejected 1\n' in shown and not (folder/'rejected.jsonl').exists()
    assert 'rejected 1: see rejected.jsonl' in said(capsys, 'edit', folder, '--prefix', 'x ')

@pytest.mark.parametrize('flag', ['device', 'dtype', 'background'])
def test_long_values_are_shortened(flag, tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png')
    shown = said(capsys, 'caption', folder, f'--{flag}', 'x'*5000, code=1)
    assert 'x'*79 + '…' in shown and 'x'*80 not in shown

def test_what_convert_writes_leaves_nothing_out(tmp_path, capsys):
    folder = images(tmp_path/'in', '0.png')
    (folder/'0.txt').write_text(WORDS)
    for to in ('kohya', 'imagefolder', 'sidecars', 'onetrainer', 'ai-toolkit', 'filenames', 'automode'):
        said(capsys, 'convert', folder, tmp_path/to, '--to', to)
        assert 'left out' not in how_read(said(capsys, 'check', tmp_path/to, '--strict')), to

def test_a_name_that_no_file_can_have_stops_before_captions(tmp_path, capsys):
    assert 'name must not contain' in said(capsys, 'run', images(tmp_path/'in', '0.png'), '--name', 'a/b', '--out', tmp_path/'out', code=1)
    assert not (tmp_path/'out').exists()

def test_what_lora_info_finds(tmp_path, capsys):
    import torch
    from safetensors.torch import save_file
    name, said_of = 'base_model.model.{}.attn1.to_q.lora_{}.weight', {'automode.plain_of': 'style.safetensors', 'automode.plain_kind': 'DoRA', 'automode.relative_error': '0.0123'}
    pair = lambda layer: {name.format(layer, o): torch.ones(*size) for o, size in (('A', (4, 8)), ('B', (8, 4)))}
    good = pair('unet.mid_block.attentions.0.transformer_blocks.0')
    save_file(good, tmp_path/'adapter.safetensors', said_of)
    (tmp_path/'pointer.safetensors').write_text('version https://git-lfs.github.com/spec/v1\n')
    shown = said(capsys, 'lora', 'info', tmp_path)
    assert 'pointer.safetensors' in shown
    assert 'plain LoRA made from style.safetensors, a DoRA, 1.2% of its weight delta missing' in shown
    save_file(good | pair('transformer.layers.0'), tmp_path/'adapter.safetensors')
    assert 'problem: ' in said(capsys, 'lora', 'info', tmp_path/'adapter.safetensors', code=1)

def test_training_names_images_without_a_caption(tmp_path, capsys):
    write_rows(images(tmp_path/'in', '0.png', '1.png', '2.png')/'metadata.jsonl', [dict(file_name=f'{k}.png', text=f'{WORDS} {k}') for k in range(2)])
    args = ['train', tmp_path/'in', '--out', tmp_path/'run', '--max_train_steps', 1, '--batch_size', 1, '--rank', 2, '--sample_prompt', '', '--num_validation', 0,
            '--device', 'cpu']
    told = said(capsys, *args)
    assert "left out: '2.png' has no caption" in told and '\n1 image without a caption; run: automode caption' in told and 'rejected 1' in told, told
    assert 'for photographs use --base' in told
    said(capsys, *args, '--strict', code=1)
