"""A new captioner is one entry and one class; wrong options fail before a model is loaded"""
import runpy, shutil

import pytest
from PIL import Image

from automode.caption import caption_folder
from automode.captioners.base import Captioned, Captioner
from automode.captioners.load import CAPTIONERS, CaptionerKind, as_captioner, captioner_kind, find_kind, load_captioner
from automode.captioners.options import CAPTION_OPTIONS, CaptionOption
from automode.cli.commands import command_parser
from automode.core import Problem, asset_path, write_json


class Dummy(Captioner):
    "Names the size of an image"
    usual_prompt = 'image of'

    def __init__(self, name, units): self.name, self.units = name, units

    @classmethod
    def from_pretrained(cls, name, device=None, dtype=None, trust_remote_code=False, **options):
        return cls(str(name), options.get('units', 'pixels'))

    def __call__(self, images, prompt='', **kwargs):
        return [Captioned(f'{prompt} {o.width} {self.units}', -1.) for o in images]

@pytest.fixture
def dummy(tmp_path):
    "Folder of a model whose kind is registered for one test, with an option of its own"
    CAPTION_OPTIONS.add(CaptionOption('units', 'Unit of length', rule='text', right=lambda o: isinstance(o, str),
                                      everywhere=False, loads=True))
    CAPTIONERS.add(CaptionerKind('dummy', 'Names the size of an image', f'{__name__}:Dummy', model_types=('dummy',),
                                 takes=('units', 'keep_prompt')))
    write_json(tmp_path/'model'/'config.json', dict(model_type='dummy'))
    yield tmp_path/'model'
    del CAPTIONERS['dummy'], CAPTION_OPTIONS['units']

@pytest.fixture
def images(tmp_path):
    "Folder of two images"
    (tmp_path/'images').mkdir()
    for width in (24, 32): Image.new('RGB', (width, 24), 'red').save(tmp_path/'images'/f'{width}.png')
    return tmp_path/'images'


def test_a_captioner_is_one_entry(dummy, images):
    assert find_kind(dummy).name == 'dummy'
    with pytest.raises(Problem, match=r'a bert model: .*dummy \(Names the size of an image\)'):
        captioner_kind(dict(model_type='bert'), 'x')
    for command in ('caption', 'run'):
        shown = ' '.join(command_parser(command).format_help().split())
        assert ', '.join(CAPTIONERS) in shown and 'dummy' in shown
    with pytest.raises(Problem, match='num_beams is not supported with captioner dummy'):
        caption_folder(images, dummy, num_beams=2)
    with pytest.raises(Problem, match='units must be text, got 3'): caption_folder(images, dummy, units=3)
    with pytest.raises(Problem, match=r'units is not supported with captioner blip \(only with dummy\)'):
        caption_folder(images, units='cm')
    dataset = caption_folder(images, dummy, units='cm')
    assert [o['text'] for o in dataset] == ['image of 24 cm', 'image of 32 cm']
    loaded = load_captioner(dummy)
    assert as_captioner(loaded) is loaded and find_kind(loaded).name == 'dummy'
    again = caption_folder(images, loaded, prompt='a', keep_prompt='no', overwrite=True)
    assert [o['text'] for o in again] == ['24 pixels', '32 pixels']

def test_every_captioner_is_documented(dummy, capsys):
    runpy.run_path('nbs/reference/options.qmd.py')
    page = capsys.readouterr().out
    assert all(f'| `{o.name}` | {o.help} |' in page for o in (*CAPTIONERS.values(), *CAPTION_OPTIONS.values()))
    assert '| `dummy` | Names the size of an image | `units`, `keep_prompt` |' in page

def test_an_entry_wins_over_those_before_it(dummy):
    CAPTIONERS.add(CaptionerKind('mine', 'BLIP with another class', f'{__name__}:Dummy', model_types=('blip',)))
    try: assert type(load_captioner()) is Dummy
    finally: del CAPTIONERS['mine']
    assert find_kind('starter').name == 'blip'


@pytest.fixture(scope='module')
def weightless(tmp_path_factory):
    "The starter without its weights: an error other than `no weights` is found without loading it"
    folder = tmp_path_factory.mktemp('weightless')/'blip'
    shutil.copytree(asset_path('starter_captioner'), folder)
    (folder/'model.safetensors').unlink()
    return folder

WRONG = {
    'num_beams must be 1 or more, got 0': dict(num_beams=0),
    'num_beams must be 1 or more, got True': dict(num_beams=True),
    'top_p must be above 0 and at most 1, got 2': dict(top_p=2),
    'num_beams 4 is not supported with top_p; leave one of them out': dict(num_beams=4, top_p=.9),
    'batch_size must be 1 or more, got 0': dict(batch_size=0),
    'num_captions must be 1 or more, got -1': dict(num_captions=-1),
    'max_new_tokens must be 1 or more, got 1.5': dict(max_new_tokens=1.5),
    'seed must be an integer, got 0.5': dict(seed=.5),
    'keep_prompt must be yes, no, or the words that replace the prompt, got 3': dict(keep_prompt=3),
    'prompt must be text, got 3': dict(prompt=3),
    "overwrite must be true or false, got 'yes'": dict(overwrite='yes'),
    'timeout must be above 0, got 0': dict(timeout=0),
    "got 'num_beam'; did you mean num_beams?": dict(num_beam=3),
    "got 'thresold'; did you mean thresholds?": dict(thresold=.5),
    'thresholds must be between 0 and 1': dict(thresholds=35),
    'thresholds is not supported with captioner blip (only with tagger); leave it out': dict(thresholds=.5),
    'prompt_template is not supported with captioner blip (only with chat)': dict(prompt_template='{prompt}'),
    'prefix is not supported with captioner blip': dict(prefix='sks'),
    "'gpu' is not a device": dict(device='gpu'),
    "'int3' is not a precision": dict(dtype='int3'),
    "'below=x' is not a score": dict(recaption='below=x'),
    "'blueish' is not a colo": dict(background='blueish'),
}

@pytest.mark.parametrize('sentence', WRONG)
def test_wrong_options_fail_before_loading(sentence, weightless, images):
    with pytest.raises(Problem) as e: caption_folder(images, weightless, **WRONG[sentence])
    assert sentence in str(e.value) and 'weights' not in str(e.value)
    assert not (images/'metadata.jsonl').exists()

def test_all_wrong_options_at_once(weightless, images):
    wrong = dict(num_beams=0, top_p=2, batch_size=0, num_captions=0, keep_prompt=3, prefix='x', thresold=1,
                 dtype='int3')
    with pytest.raises(Problem) as e: caption_folder(images, weightless, **wrong)
    assert all(o in str(e.value) for o in wrong if o != 'dtype') and 'int3' in str(e.value)
    with pytest.raises(Problem, match="num_beams must be 1 or more, got 0; the captioner 'nobody' is neither"):
        caption_folder(images, 'nobody', num_beams=0)
    with pytest.raises(Problem, match='no weights in safetensors'):
        caption_folder(images, weightless)                                      # then it is loaded

def test_a_function_takes_decoding_options_only(images):
    seen = []
    def count(images, prompt, **kwargs): seen.append(kwargs); return ['a thing']*len(images)
    with pytest.raises(Problem, match='thresholds is for a captioner that is named; leave it out'):
        caption_folder(images, count, thresholds=.5)
    caption_folder(images, count, top_p=.9, num_captions=2)
    caption_folder(images, count, overwrite=True)
    assert [(o['num_beams'], o['top_p'], o['num_captions']) for o in seen] == [(1, .9, 2), (3, None, 1)]
