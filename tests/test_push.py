"""A LoRA and its card go to a server that answers as the Hugging Face hub does: what arrives, what stays here, and who is refused"""
import json, os, re, shutil, subprocess, sys, sysconfig
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from safetensors import safe_open

from automode.core import Problem, data_path
from automode.push import push
sys.path.insert(0, str(Path(__file__).parent))
import hub as hubs

pytestmark = pytest.mark.xdist_group('push')

COMMAND = str(Path(sysconfig.get_path('scripts'))/'automode')
CAPTIONS = ['tiantian rabbit with my daughter', 'tiantian rabbit at our house', 'tiantian rabbit']


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a finished run in it"
    top = tmp_path_factory.mktemp('push')
    pictures = top/'holiday'
    pictures.mkdir()
    names = [shutil.copy(o, pictures) for o in sorted(data_path('samples', 'subject').glob('*.png'))[:3]]
    rows = [dict(file_name=Path(o).name, text=text) for o, text in zip(names, CAPTIONS)]
    (pictures/'metadata.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in rows))
    done = subprocess.run([COMMAND, 'train', str(pictures), '--out', 'tiantian-lora', '--max_train_steps', '2', '--batch_size', '1', '--rank', '2',
                           '--token', 'tiantian', '--class_word', 'rabbit', '--sample_prompt', 'a picture of tiantian rabbit'],
                          cwd=top, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return top

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
    assert said.returncode == 0 and said.stdout.endswith('dry run: nothing was sent\n') and hub.asked == [] and not hub.repos
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

def test_a_login_that_is_missing_is_one_sentence(place, hub):
    done = automode('push', 'tiantian-lora', 'me/lora', hub=hub, token=None, cwd=place)
    assert done.returncode == 1 and 'Traceback' not in done.stderr and not hub.repos
    assert done.stderr == "automode push: nobody is logged in to the Hugging Face hub here; run 'hf auth login' once, or set HF_TOKEN\n"

@pytest.mark.parametrize('repo, words, settings', [
    ('me/lora', 'does not know the token', dict(token='hf_wrong')), ('you/lora', "may not write to 'you/lora'", {}),
    ('lora', "'lora' is not a name like user/name", {}), ('me/lora', 'HF_HUB_OFFLINE is set', dict(offline=True)),
    ('me/lora', 'could not be reached', dict(endpoint='http://127.0.0.1:9')), ('me/lora', 'is not a training run', dict(run='holiday')),
    ('me/open', 'open to all', dict(private=True))])
def test_who_is_refused_gets_one_sentence(hub, monkeypatch, repo, words, settings):
    if 'token' in settings: monkeypatch.setenv('HF_TOKEN', settings['token'])
    if 'offline' in settings: monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    hub.repos['me/open'] = dict(private=False, files={})                     # asking does not make it private
    with pytest.raises(Problem, match=words):
        push(settings.get('run', 'tiantian-lora'), repo, private=settings.get('private', False), endpoint=settings.get('endpoint', hub.address))
    assert hub.repos == {'me/open': dict(private=False, files={})}
