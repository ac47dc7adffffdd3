"Conversions against other processes: a kill at any moment, and the readers of other programs"
import json, random, runpy, shutil, signal, subprocess, sys, time
from collections import OrderedDict

import pytest

from automode.cli.commands import command_parser, flag_words, main
from automode.convert import convert, formats
from automode.core import Problem, asset_path
from automode.data.dataset import Dataset, new_row
from automode.data.lock import lock_dataset
from automode.formats.base import Format, Found
from automode.formats.file_names import caption_from_path
from automode.formats.output import fill_folder
from automode.formats.reading import detect_format, read_folder

SAMPLES = sorted(asset_path('samples', 'style').glob('*.png'))

@pytest.fixture
def source(tmp_path):
    "Three hundred pictures with captions"
    dataset = Dataset(tmp_path/'source')
    dataset.folder.mkdir()
    for n in range(300):
        shutil.copy(SAMPLES[n % len(SAMPLES)], dataset.folder/f'{n}.png')
        dataset.rows.append(new_row(f'{n}.png', f'number {n} 🎈'))
    dataset.write()
    return dataset.folder

def files(folder):
    "What lies in a folder, without what is ours alone"
    return {o.relative_to(folder).as_posix(): o.read_bytes() for o in sorted(folder.rglob('*'))
            if o.is_file() and '.automode' not in o.relative_to(folder).parts}

@pytest.mark.parametrize('to', ['kohya', 'webdataset'])
def test_killed_and_started_again(source, tmp_path, to):
    options = dict(to=to, class_word='fox', shard_images=20)
    convert(source, tmp_path/'undisturbed', **options)
    wanted = {k: o.replace(b'undisturbed', b'killed') for k, o in files(tmp_path/'undisturbed').items()}
    out, rng, killed = tmp_path/'killed', random.Random(0), 0
    code = f'from automode.convert import convert; convert({str(source)!r}, {str(out)!r}, **{options!r}); print("done")'
    for _ in range(40):
        before = len(files(out)) if out.exists() else 0
        process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        target = before + rng.randint(1, len(wanted)//6 + 1)
        while process.poll() is None and killed < 8:
            if out.exists() and sum(1 for o in out.rglob('*') if o.is_file()) >= target: break
            time.sleep(.002)
        if process.poll() is None and killed < 8:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        if process.returncode == 0: break
        assert all(wanted[k] == o for k, o in files(out).items())   # each file is whole
    assert process.returncode == 0 and killed >= 3
    assert files(out) == wanted

def test_waits_for_another_process(source, tmp_path):
    out = tmp_path/'out'
    out.mkdir()
    code = f'from automode.convert import convert; print(convert({str(source)!r}, {str(out)!r}, to="sidecars"))'
    with lock_dataset(out):
        process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = process.stderr.readline()
        assert 'waiting for process' in said and str(out) in said
        assert process.poll() is None and not files(out)            # it has written nothing
    printed, _ = process.communicate()
    assert printed.strip() == 'converted 300' and len(files(out)) == 600

def test_says_who_fills_the_folder(source, tmp_path):
    (tmp_path/'out').mkdir()
    code = f'import sys; from automode.data.lock import lock_dataset\nwith lock_dataset({str(tmp_path/"out")!r}): print("held", flush=True); sys.stdin.read()'
    process = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    try:
        with pytest.raises(Problem, match=f'in use by process {process.pid}'), fill_folder(tmp_path/'out', {}, wait=0.): pass
    finally: process.communicate()
    assert not files(tmp_path/'out')

def test_captionizer_reads_paths_as_we_do():
    theirs = pytest.importorskip('captionizer')
    rng, parts = random.Random(0), ['S', 'C', 'a', 'dog', '_', '@', 'my_S', 'S,', 'photo of C', 'x@y', 'S C', 'img-1']
    for _ in range(2000):
        folders = ['_'.join(rng.choices(parts, k=rng.randint(1, 2))) for _ in range(rng.randint(0, 4))]
        path = '/'.join(['set', *folders, rng.choice([' ', '_', '@', '']).join(rng.choices(parts, k=rng.randint(1, 4))) + '.jpg'])
        for words in ([('S', 'effy'), ('C', 'person')], [('C', 'person')]):
            wanted = ' '.join(theirs.generic_captions_from_path(path, 'set', OrderedDict(words)).split())
            assert caption_from_path(path, 'set', dict(words).get('S'), 'person') == wanted, path

def test_webdataset_reads_our_shards(source, tmp_path):
    webdataset = pytest.importorskip('webdataset')
    convert(source, tmp_path/'shards', to='webdataset', shard_images=70)
    shards = sorted(map(str, (tmp_path/'shards').glob('*.tar')))
    read = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert len(shards) == 5 and len(read) == 300
    for sample in read:
        row = json.loads(sample['json'])
        assert sample['png'] == (source/row['file_name']).read_bytes() and sample['txt'].decode() == row['text']

def automode(*args):
    "Run the command; what it prints"
    done = subprocess.run([sys.executable, '-m', 'automode.cli', *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr

def put(folder, texts, *images):
    "A folder of sample images and texts"
    for n, name in enumerate(images):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES[n % len(SAMPLES)], folder/name)
    for name, text in texts.items(): (folder/name).write_text(text)
    return folder

WAYS = {'caption file of two lines': ({'0.caption': 'a red hat', '1.caption': 'a hat\na second line'}, ['0.png', '1.png'], ['a red hat', 'a hat, a second line']),
        'one tag a line': ({'0.txt': '1girl\nsolo\nred hat\n'}, ['0.png'], ['1girl, solo, red hat']),
        'paragraphs': ({'0.txt': 'A fox sits.\n\nIt looks at the moon.\n'}, ['0.png'], ['A fox sits. It looks at the moon.']),
        'names of downloaders': ({'0.png.txt': 'number 0', '1.TXT': 'number 1'}, ['0.png', '1.png'], ['number 0', 'number 1']),
        'a column prompt': ({'metadata.jsonl': '{"file_name": "0.png", "prompt": "my words"}'}, ['0.png'], ['my words']),
        'a CSV of a spreadsheet': ({'metadata.csv': 'Image;Caption\n0.png;a red hat, worn\n'}, ['0.png'], ['a red hat, worn']),
        'a split': ({'train/metadata.jsonl': '{"file_name": "0.png", "text": "my words"}'}, ['train/0.png'], ['my words']),
        'JSON of kohya': ({'meta_lat.json': '{"/x/0.png": {"caption": "my words", "tags": "a, b"}}'}, ['0.png'], ['my words, a, b']),
        'TOML without a suffix': ({'dataset.toml': '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "x"\nclass_tokens = "sks"', 'x/0.txt': 'my words'}, ['x/0.png'], ['my words']),
        'years': ({}, ['2023_paris/0.png', '2024_rome/1.png', 'home/2.png'], ['', '', '']),
        'masks': ({'0.txt': 'a thing'}, ['0.png', '0-masklabel.png'], ['a thing'])}

@pytest.mark.parametrize('way', WAYS)
def test_every_word_arrives(tmp_path, way):
    texts, images, wanted = WAYS[way]
    folder = put(tmp_path/'in', texts, *images)
    reading = read_folder(folder)
    assert [o['text'] for o in reading.dataset] == wanted and not reading.dataset.bad
    assert 'converted' in automode('convert', folder, tmp_path/'out', '--to', 'automode')
    assert [o['text'] for o in Dataset.read(tmp_path/'out')] == wanted

def test_what_is_not_understood_is_named(tmp_path):
    texts = {'metadata.csv': 'file_name,text\n0.png,1girl, solo\n1.png,a hat\n', 'lost.txt': 'words', 'notes.json': '{}'}
    reading = read_folder(put(tmp_path, texts, '0.png', '1.png'))
    assert [o['text'] for o in reading.dataset] == ['a hat']
    assert 'metadata.csv line 2' in reading.dataset.bad['0.png'] and 'quotes' in reading.dataset.bad['0.png']
    assert 'lost.txt' in str(reading) and 'notes.json' in str(reading)

def test_damaged_tables_end_with_a_sentence(tmp_path):
    "Each mutation is read, or refused with a `Problem`"
    rng, seeds = random.Random(0), {
        'metadata.csv': b'file_name,text,repeats\na.png,"a hat, red",3\n', 'metadata.jsonl': b'{"file_name": "a.png", "text": ["a"], "repeats": 3}\n',
        'meta_cap.json': b'{"/x/a.png": {"caption": "a", "tags": ["b"]}}', 'a.txt': b'a fox\non grass',
        'dataset.toml': b'[general]\nenable_wildcard = true\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "."\nnum_repeats = 3\nclass_tokens = "x"\n'}
    odd = [b'\0', b'[' * 60_000, b'{' * 2000, b'9' * 5000, b'1e999', b'null', b'\xff', b'"\\ud83d"', b'..', b'/etc/passwd', b'"', b',', b';', b'\n', b'{}', b'[]']
    put(tmp_path, {}, 'a.png')
    for n in range(300):
        name = rng.choice(list(seeds))
        data = seeds[name]
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            data = data[:at] + rng.choice(odd) + data[at + rng.choice((0, 1, 5)):]
        (tmp_path/name).write_bytes(data)
        try: str(read_folder(tmp_path))
        except Problem: pass
        (tmp_path/name).unlink()

# --- a new format is one entry, and three functions

def find_dummy(folder):
    "Read the lines of `captions.dummy`"
    for name, text in (o.split('=', 1) for o in (folder/'captions.dummy').read_text().splitlines()):
        yield Found(new_row(name, text), folder/name)

def write_dummy(items, out, options):
    "Write images, and a line for each"
    lines = []
    for o in items:
        out.put(o.row['file_name'], o.source, options.link)
        lines.append(f"{o.row['file_name']}={o.row['text']}\n")
    out.put('captions.dummy', ''.join(lines).encode())

def recognize_dummy(contents):
    "Recognize the file"
    if (contents.path/'captions.dummy').is_file(): yield .99, 'there is a captions.dummy'

@pytest.fixture
def dummy():
    "A format that is entered for one test"
    yield formats.add(Format('dummy', 'Lines of name=caption', f'{__name__}:find_dummy', title='a dummy dataset', loses='everything else',
                             writer=f'{__name__}:write_dummy', recognizer=f'{__name__}:recognize_dummy'))
    del formats['dummy']

def test_a_format_is_one_entry(dummy, tmp_path, capsys):
    source = put(tmp_path/'source', {'0.txt': 'a fox', '1.txt': 'a bee'}, '0.png', '1.png')
    main(['convert', str(source), str(tmp_path/'out'), '--to', 'dummy', '--token', 'sks'])
    assert (tmp_path/'out'/'captions.dummy').read_text() == '0.png=sks, a fox\n1.png=sks, a bee\n'
    assert detect_format(tmp_path/'out') == ('dummy', 'there is a captions.dummy')
    assert str(read_folder(tmp_path/'out')).startswith('read as: a dummy dataset (there is a captions.dummy)')
    main(['convert', str(tmp_path/'out'), str(tmp_path/'back'), '--to', 'automode'])
    assert [o['text'] for o in Dataset.read(tmp_path/'back')] == ['sks, a fox', 'sks, a bee']
    assert 'read as: a dummy dataset' in capsys.readouterr().out

def test_a_format_is_in_help_errors_completion_and_documentation(dummy, tmp_path, capsys):
    actions = {o.dest: o.help for o in command_parser('convert')._actions}
    assert all('everydream, dummy (default' in actions[o] for o in ('to', 'from_'))
    assert all('dummy' in flag_words()[o] for o in ('convert to', 'convert from'))
    with pytest.raises(Problem, match="to must be one of automode, .*, dummy, got 'dumy'; did you mean dummy"): convert(tmp_path, tmp_path/'out', to='dumy')
    with pytest.raises(Problem, match="from must be one of automode, .*, dummy, got 'dumy'; did you mean dummy"): convert(tmp_path, tmp_path/'out', from_='dumy')
    runpy.run_path('nbs/reference/options.qmd.py')
    page = capsys.readouterr().out
    assert all(f'| `{name}` | {o.help} |' in page for name, o in formats.items()) and 'Lines of name=caption' in page

def test_wrong_options_are_named_at_once_before_the_source_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr('automode.formats.reading.detect_format', lambda *args: pytest.fail('the source was read'))
    with pytest.raises(Problem) as e: convert(tmp_path/'nowhere', tmp_path/'out', to='kohja', repeats=0, shard_images='x', caption_extension='.exe')
    told = str(e.value).split('; ')
    assert told[1:] == ['did you mean kohya?', "caption_extension must be .txt or .caption, got '.exe'", 'repeats must be a whole number of 1 or more, got 0',
                        "shard_images must be a whole number of 1 or more, got 'x'"]
    assert not (tmp_path/'out').exists()

def test_every_format_has_what_the_registry_asks_for():
    for name, o in formats.items():
        assert o.help and o.title and callable(o.find) and o.recognizer, name
        assert bool(o.writer) == bool(o.loses), name
