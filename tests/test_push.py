"""A LoRA and its card go to a server that answers as the Hugging Face hub does: what arrives, what stays here, and who is refused"""
import io, json, os, re, shutil, subprocess, sys, sysconfig, zlib
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from PIL import Image
from safetensors import safe_open

from automode.core import Problem, asset_path
from automode.push import push
sys.path.insert(0, str(Path(__file__).parent))
import hub as hubs
from warm import warm


COMMAND = str(Path(sysconfig.get_path('scripts'))/'automode')
CAPTIONS = ['tiantian rabbit with my daughter', 'tiantian rabbit at our house', 'tiantian rabbit']
PRIVATE = ['Greta Olsen from Elm Street 9 in her garden', 'Anna', 'a letter by Doctor Miller']


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a finished run in it"
    top = tmp_path_factory.mktemp('push')
    pictures = captioned(top/'holiday', CAPTIONS)
    done = warm.command('train', pictures, '--out', 'tiantian-lora', '--max_train_steps', '2', '--batch_size', '1', '--rank', '2',
                        '--token', 'tiantian', '--class_word', 'rabbit', '--sample_prompt', 'a picture of tiantian rabbit', cwd=top)
    assert done.returncode == 0, done.stderr
    return top

def captioned(folder, captions):
    "Pictures with captions that a person wrote"
    folder.mkdir()
    names = [shutil.copy(o, folder) for o in sorted(asset_path('samples', 'subject').glob('*.png'))[:len(captions)]]
    rows = [dict(file_name=Path(o).name, text=text, status='edited') for o, text in zip(names, captions)]
    (folder/'metadata.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in rows))
    return folder

@pytest.fixture
def hub(monkeypatch, place):
    "A hub that this process may reach, as somebody who is logged in there"
    for k, v in dict(HF_HUB_OFFLINE=False, HF_HUB_DISABLE_XET=True, HF_TOKEN_PATH=str(place/'none')).items(): monkeypatch.setattr(constants, k, v)
    monkeypatch.setenv('HF_TOKEN', 'hf_of_me')
    monkeypatch.chdir(place)
    with hubs.running() as hub: yield hub

def automode(*args, hub=None, token='hf_of_me', cwd=None, command=(COMMAND,), **more):
    "Run the command, with the hub's address and a token"
    env = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'HUGGING'))}
    env |= dict(HF_HOME=str(cwd/'hf'), HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_PROGRESS_BARS='1', **more)
    if hub: env['HF_ENDPOINT'] = hub.address
    if token: env['HF_TOKEN'] = token
    return subprocess.run([*command, *map(str, args)], capture_output=True, text=True, env=env, cwd=cwd, timeout=300)

def all_texts(files):
    "Everything that can be read in what was sent: the bytes, what PNG files and LoRA files say, unpacked too"
    for name, data in files.items():
        yield name, data
        if name.endswith('.png'):
            with Image.open(io.BytesIO(data)) as image: yield name, repr(image.info).encode()
        for start in (o.start() for o in re.finditer(b'zTXt|iTXt|iCCP|eXIf', data)):      # texts may be packed
            packed = data[start + 4:].split(b'\0', 2)[-1]
            try: yield name, zlib.decompressobj().decompress(packed)
            except zlib.error: pass

def tells(files, secrets):
    "What of `secrets` is found there, small or large"
    return [(name, o) for name, data in all_texts(files) for o in secrets if o.lower().encode() in data.lower()]

def listed(text):
    "The files that the command says it sends"
    return re.findall(r'^  (\S+) \(', text, re.M)


def test_the_card_lies_beside_the_lora(place):
    run = place/'tiantian-lora'
    card = ModelCard.load(run/'README.md')
    assert card.data.instance_prompt == 'tiantian rabbit' and card.data.license == 'apache-2.0'
    assert [(o['text'], (run/o['output']['url']).is_file()) for o in card.data.widget] == [('a picture of tiantian rabbit', True)]
    assert {'lora', 'stable-diffusion', 'text-to-image', 'diffusers', 'template:sd-lora'} <= set(card.data.tags)
    assert all(o not in card.content for o in (str(place), 'holiday', 'daughter'))

def test_what_is_sent_is_said_first_and_arrives(place, hub):
    said = automode('push', 'tiantian-lora', 'me/tiantian-lora', '--dry_run', hub=hub, cwd=place)
    assert said.returncode == 0 and said.stdout.endswith('dry run: nothing was uploaded\n') and hub.asked == [] and not hub.repos
    done = automode('push', 'tiantian-lora', 'me/tiantian-lora', hub=hub, cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f'Open {hub.address}/me/tiantian-lora'
    files = hub.repos['me/tiantian-lora']['files']
    assert listed(said.stdout) == listed(done.stdout) == list(files) and not hub.repos['me/tiantian-lora']['private']
    assert {'README.md', 'tiantian-lora.safetensors', 'card/1.png'} <= set(files)
    assert not [o for o in files if re.search(r'config|metadata|jsonl|checkpoint|holiday', o)]

def test_nothing_of_this_machine_or_of_the_captions_is_sent(place, hub):
    kept = place/'tiantian-lora'/'tiantian-lora.safetensors'
    assert b'daughter' in kept.read_bytes()
    assert push(place/'tiantian-lora', 'me/x', endpoint=hub.address) == f'{hub.address}/me/x'
    for name, data in hub.repos['me/x']['files'].items():
        for secret in (str(place), str(Path.home()), 'holiday', 'daughter', 'our house'): assert secret.encode() not in data, (name, secret)
    (place/'sent.safetensors').write_bytes(hub.repos['me/x']['files']['tiantian-lora.safetensors'])
    with safe_open(place/'sent.safetensors', 'pt') as a, safe_open(kept, 'pt') as b:
        assert set(b.metadata()) - set(a.metadata()) == {'ss_tag_frequency'} and a.metadata()['sshs_model_hash'] == b.metadata()['sshs_model_hash']
        assert all((a.get_tensor(k) == b.get_tensor(k)).all() for k in b.keys())
    push('tiantian-lora', 'me/y', with_captions=True, endpoint=hub.address)
    assert hub.repos['me/y']['files']['tiantian-lora.safetensors'] == kept.read_bytes()

def test_captions_that_were_drawn_are_not_sent(hub, tmp_path):
    "Without a --sample_prompt, captions are what is drawn on the way, and what is drawn without and with the LoRA"
    captioned(tmp_path/'pictures', PRIVATE)
    done = warm.command('run', 'pictures', '--out', 'inky', '--max_train_steps', '2', '--batch_size', '1', '--rank', '2', '--device', 'cpu', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = [tmp_path/'inky'/'before_after.png', *(tmp_path/'inky'/'run'/'samples').glob('*.png')]
    assert len(drawn) > 2 and all(o.lower() in Image.open(path).info['parameters'].lower() for path in drawn for o in PRIVATE)      # so this tests something
    said = automode('push', 'inky', 'me/inky', hub=hub, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    files = hub.repos['me/inky']['files']
    assert sorted(files) == ['README.md', 'inky.safetensors'] and listed(said.stdout) == list(files)
    secrets = [*PRIVATE[::2], 'Greta', 'Elm', 'Anna', 'Doctor', str(tmp_path)]
    assert not tells(files, secrets) and not tells({'said': said.stdout.encode()}, secrets)
    assert 'not uploaded: training images and their captions' in said.stdout
    assert "pipeline('a picture')" in files['README.md'].decode()
    said = automode('push', 'inky', 'me/inky', '--with_captions', hub=hub, cwd=tmp_path)
    assert {o for _, o in tells(hub.repos['me/inky']['files'], PRIVATE)} == set(PRIVATE)
    assert 'and their captions' not in said.stdout and 'with the training captions in these files' in said.stdout

def test_the_name_of_the_subject_is_no_caption(hub, tmp_path):
    shutil.copytree(asset_path('samples', 'subject'), tmp_path/'pictures')
    done = warm.command('train', 'pictures', '--out', 'inky', '--max_train_steps', '1', '--batch_size', '1', '--rank', '2', '--token', 'tiantian',
                    '--class_word', 'rabbit', '--device', 'cpu', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    push(tmp_path/'inky', 'me/inky', endpoint=hub.address)
    files = hub.repos['me/inky']['files']
    assert sorted(files) == ['README.md', 'card/1.png', 'inky.safetensors'] and '- text: tiantian rabbit\n' in files['README.md'].decode()
    (tmp_path/'sent.safetensors').write_bytes(files['inky.safetensors'])
    with safe_open(tmp_path/'sent.safetensors', 'pt') as f: assert f.metadata()['modelspec.trigger_phrase'] == 'tiantian rabbit'

@pytest.mark.parametrize('line, words', [
    ('Made on a rainy day: ![](card/1.png)', None), ('Tiantian *rabbit*, with my daughter.', 'quotes a caption'),
    ('![](samples/step-000002.png)', None), ('![](sheet.png)', "shows 'sheet.png'"), ('![](</home/me/my pic.png>)', 'names a folder'),
    ('pictures:/home/me/holiday', 'names a folder'), ('file:///home/me/x', 'names a folder'), (r'at \\server\share\me', 'names a folder')])
def test_what_a_person_wrote_into_the_card_is_looked_at_too(hub, tmp_path, line, words):
    run = shutil.copytree('tiantian-lora', tmp_path/'tiantian-lora')
    Image.new('RGB', (9, 9)).save(run/'sheet.png', pnginfo=text_chunk(parameters='a fox\ntiantian rabbit with my daughter'))
    (run/'README.md').write_text((run/'README.md').read_text() + f'\n{line}\n')
    if words is None: push(run, 'me/line', endpoint=hub.address)
    else:
        with pytest.raises(Problem, match=words): push(run, 'me/line', endpoint=hub.address)
    assert ('me/line' in hub.repos) == (words is None)

def text_chunk(**texts):
    "Texts for a PNG file"
    from PIL.PngImagePlugin import PngInfo
    info = PngInfo()
    for k, v in texts.items(): info.add_text(k, v, zip=True)
    return info

def test_of_a_picture_the_pixels_are_sent(hub, tmp_path):
    "A photo says where it was taken, a drawing which file it came from"
    run, exif = shutil.copytree('tiantian-lora', tmp_path/'tiantian-lora'), Image.Exif()
    exif[0x0112], exif[0x010e], exif[0x9286] = 6, '/home/me/holiday', 'by Greta'
    exif.get_ifd(0x8825).update({1: 'N', 2: (52., 31., 12.), 3: 'E', 4: (13., 24., 18.)})
    photo = Image.linear_gradient('L').resize((30, 20)).convert('RGB')
    photo.save(run/'photo.jpg', exif=exif, comment=b'/home/me/photo.jpg')
    photo.save(run/'photo.webp', exif=exif, xmp=b'<x>/home/me/photo.webp</x>', lossless=True)
    photo.save(run/'drawn.png', exif=exif, pnginfo=text_chunk(parameters='a fox', Comment='/home/me/drawn.xcf', Author='Greta'))
    photo.save(run/'named.png', pnginfo=text_chunk(parameters='a fox\nSteps: 9, Model: /home/me/models/ink'))
    names = 'photo.jpg', 'photo.webp', 'drawn.png', 'named.png'
    (run/'README.md').write_text((run/'README.md').read_text() + '\n'.join(f'![]({o})' for o in names))
    said = automode('push', run, 'me/photos', hub=hub, cwd=tmp_path)
    assert said.returncode == 0 and 'named.png: parameters' in said.stdout, said.stderr
    files = {k: hub.repos['me/photos']['files'][k] for k in names}
    assert not tells(files, ['/home', 'Greta', 'Exif', 'eXIf', 'xcf', 'GPS'])
    images = {k: Image.open(io.BytesIO(data)) for k, data in files.items()}
    assert [o.size for o in images.values()] == [(20, 30)]*3 + [(30, 20)] and not any(len(o.getexif()) for o in images.values())
    assert images['drawn.png'].info == {'parameters': 'a fox'} and images['named.png'].info == {}
    assert images['named.png'].tobytes() == photo.tobytes()

def test_a_base_that_lies_elsewhere_now(hub, tmp_path, monkeypatch):
    "A relative path is no id of the hub when it is called from another folder, nor a mistake when the base was moved"
    monkeypatch.chdir(tmp_path)
    (tmp_path/'models').mkdir()
    shutil.copytree(asset_path('starter_base'), tmp_path/'models'/'mine')
    captioned(tmp_path/'pictures', PRIVATE)
    done = warm.command('train', 'pictures', '--base', 'models/mine', '--out', 'inky', '--max_train_steps', '1', '--batch_size', '1', '--rank', '2',
                    '--sample_prompt', 'a fox', '--device', 'cpu', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path/'models').rename(tmp_path/'moved')
    (tmp_path/'other').mkdir()
    monkeypatch.chdir(tmp_path/'other')
    written = (tmp_path/'inky'/'README.md').read_text()
    for again in (False, True):
        if again: (tmp_path/'inky'/'README.md').unlink()
        push('../inky', f'me/inky{again}', endpoint=hub.address)
        sent = hub.repos[f'me/inky{again}']['files']['README.md'].decode()
        assert "from_pretrained('mine'" in sent and 'base_model' not in sent and 'models/mine' not in sent
        if not again: assert sent.replace("'me/inkyFalse'", "'.'") == written.rpartition('\n<!--')[0]

def test_the_lines_of_the_card_draw_with_what_was_sent(hub, tmp_path):
    push('tiantian-lora', 'me/tiantian-lora', private=True, endpoint=hub.address)
    assert hub.repos['me/tiantian-lora']['private']
    card = hub.repos['me/tiantian-lora']['files']['README.md'].decode()
    lines = re.search(r'```python\n(.*?)```', card, re.S)[1]
    assert "load_lora_weights('me/tiantian-lora', weight_name='tiantian-lora.safetensors')" in lines
    lines = lines.replace(').images[0]', ', num_inference_steps=2).images[0]') + '\nassert pipeline.get_list_adapters()["unet"]'
    done = automode(lines, hub=hub, cwd=tmp_path, command=(sys.executable, '-c'))
    assert done.returncode == 0, done.stderr
    assert (tmp_path/'new.png').exists()

def test_a_card_that_a_person_wrote_is_what_is_sent(hub, tmp_path):
    run = shutil.copytree('tiantian-lora', tmp_path/'tiantian-lora')
    (run/'README.md').write_text((run/'README.md').read_text() + '\nMade on a rainy day.\n')
    push(run, 'me/rainy', endpoint=hub.address)
    assert b'rainy day' in hub.repos['me/rainy']['files']['README.md']
    push(run, 'me/rainy', endpoint=hub.address)                              # nothing new is no mistake

def test_a_place_that_is_private_already_is_not_called_public(hub, capsys):
    hub.repos['me/hidden'] = dict(private=True, files={})
    push('tiantian-lora', 'me/hidden', endpoint=hub.address)
    assert '(public, unless it exists and is private)' in capsys.readouterr().out and hub.repos['me/hidden']['private']

def test_a_login_that_is_missing_is_one_sentence(place, hub):
    done = automode('push', 'tiantian-lora', 'me/lora', hub=hub, token=None, cwd=place)
    assert done.returncode == 1 and 'Traceback' not in done.stderr and not hub.repos
    assert done.stderr == "automode push: you are not logged in to the Hugging Face Hub; run 'hf auth login' once, or set HF_TOKEN\n"

@pytest.mark.parametrize('repo, words, settings', [
    ('me/lora', 'does not know the token', dict(token='hf_wrong')), ('you/lora', "may not write to 'you/lora'", {}),
    ('lora', "'lora' is not a name like user/name", {}), ('me/lora', 'HF_HUB_OFFLINE is set', dict(offline=True)),
    ('me/lora', 'could not be reached', dict(endpoint='http://127.0.0.1:9')), ('me/lora', 'is not a training run', dict(run='holiday')),
    ('me/open', 'exists and is public', dict(private=True))])
def test_who_is_refused_gets_one_sentence(hub, monkeypatch, repo, words, settings):
    if 'token' in settings: monkeypatch.setenv('HF_TOKEN', settings['token'])
    if 'offline' in settings: monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    hub.repos['me/open'] = dict(private=False, files={})                     # asking does not make it private
    with pytest.raises(Problem, match=words):
        push(settings.get('run', 'tiantian-lora'), repo, private=settings.get('private', False), endpoint=settings.get('endpoint', hub.address))
    assert hub.repos == {'me/open': dict(private=False, files={})}
