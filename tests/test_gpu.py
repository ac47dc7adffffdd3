"""What only a GPU can show: training, captioning and drawing on it, what they take of its memory, and what happens when that runs out

AUTOMODE_PICTURES names a folder for what is drawn, for who wants to look.
"""
import gc, os, re, shutil, signal, subprocess, sys, time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import automode.training.step, automode.train
from automode.caption import CaptionRun, caption_folder, find_batch_size
from automode.captioners.load import load_captioner
from automode.core import Problem, asset_path
from automode.data.images import image_grid
from automode.generate import generate
from automode.run import Run
from automode.train import train
from automode.training.step import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no CUDA GPU here')
needs_bitsandbytes = pytest.mark.skipif(not find_spec('bitsandbytes'), reason="bitsandbytes is not installed here; pip install 'automode[optim]'")
ROOT, STYLE, SUBJECT = Path(__file__).resolve().parents[1], asset_path('samples', 'style'), asset_path('samples', 'subject')
FEW = dict(token='tiantian', class_word='rabbit', max_train_steps=8, batch_size=4, rank=4, learning_rate=1e-3, lr_scheduler='constant',
           lr_warmup_steps=0, num_validation=0, save_every_steps=4, keep_checkpoints=0, log_every_steps=1, sample_prompt='')
MB = 1_000_000


def trained(out, pictures=SUBJECT, **settings): return train(pictures, out=out, name='lora', **(FEW | settings))

def losses(run): return [o['loss'] for o in run.metrics if 'loss' in o]

def measured(run): return [(o['step'], o.get('loss'), o.get('validation_loss')) for o in run.metrics]

def furthest(a, b):
    "The largest difference between the weights of two runs; 0 when they are the same, bit for bit"
    a, b = (load_file(o.lora) for o in (a, b))
    assert a.keys() == b.keys()
    return max(float((a[o].float() - b[o].float()).abs().max()) for o in a)

def pixels(image): return np.asarray(image.convert('RGB'), dtype='float32')

def is_drawing(image):
    "Is there something to see, neither black nor one colour nor noise?"
    return pixels(image).std() > 20 and pixels(image).max() > 100

def keep(image, name):
    if folder := os.environ.get('AUTOMODE_PICTURES'): image.save(Path(folder)/f'{name}.png')

def empty():
    "Let go of what earlier tests have left"
    gc.collect()
    torch.cuda.empty_cache()

@contextmanager
def limited(size):
    "Within the block, PyTorch may take `size` bytes of the GPU, beside what it has given out already"
    empty()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + size) / total)
    try: yield
    finally: torch.cuda.set_per_process_memory_fraction(1.)

@contextmanager
def peak():
    "The most that was given out within the block, in bytes, in a list"
    empty()
    before, found = torch.cuda.memory_allocated(), []
    torch.cuda.reset_peak_memory_stats()
    try: yield found
    finally: found.append(torch.cuda.max_memory_allocated() - before)


# --- training

def test_it_learns_in_every_precision(tmp_path):
    "The loss falls on a picture that was held out, equally in all precisions, and the LoRA draws"
    found, pictures = {}, []
    for precision, dtype in (('no', 'float32'), ('bf16', 'bfloat16'), ('fp16', 'float16')):
        run = trained(tmp_path/precision, mixed_precision=precision, max_train_steps=100, learning_rate=4e-4, num_validation=1, validate_every_steps=50,
                      log_every_steps=10)
        found[precision] = [v for k, v in sorted(run.validation().items())]
        with_lora = generate(['tiantian rabbit', 'a picture of a house'], lora=run.lora, dtype=dtype)
        without = generate(['tiantian rabbit'], dtype=dtype)
        assert all(map(is_drawing, with_lora))
        assert np.abs(pixels(with_lora[0]) - pixels(without[0])).mean() > 3
        pictures += [*without, *with_lora]
    keep(image_grid(pictures, ['base, float32', 'LoRA', 'LoRA', 'base, bf16', 'LoRA', 'LoRA', 'base, fp16', 'LoRA', 'LoRA'], cols=3, size=128), 'precisions')
    print(found)
    for o in found.values():
        assert o[-1] < o[0]
        assert o[-1] == pytest.approx(found['no'][-1], rel=.03)

STOPPED = dict(bf16={}, fp16=dict(mixed_precision='fp16'), float32=dict(mixed_precision='no', ema_decay=.9), buckets=dict(gradient_accumulation_steps=2),
               checkpointing=dict(gradient_checkpointing=True), text=dict(class_images=STYLE, train_text_encoder=True), lokr=dict(adapter='lokr'),
               adamw8bit=dict(optimizer='adamw8bit'))

@pytest.mark.parametrize('kind', STOPPED)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path, monkeypatch, kind):
    "The same seed gives the same weights, bit for bit, also when the second half is begun anew from a checkpoint"
    if kind == 'adamw8bit' and not find_spec('bitsandbytes'): pytest.skip('bitsandbytes is not installed here')
    settings, pictures, step = dict(STOPPED[kind]), SUBJECT, Trainer.step
    if kind == 'buckets': pictures = shapes(tmp_path)
    whole, again = (trained(tmp_path/o, pictures, **settings) for o in ('whole', 'again'))
    assert (furthest(whole, again), measured(whole)) == (0, measured(again))
    def killed(trainer):
        if trainer.global_step == 6: raise KeyboardInterrupt
        step(trainer)
    monkeypatch.setattr(Trainer, 'step', killed)
    with pytest.raises(KeyboardInterrupt): trained(tmp_path/'stopped', pictures, **settings)
    monkeypatch.setattr(Trainer, 'step', step)
    stopped = trained(tmp_path/'stopped', pictures, **settings)
    assert (furthest(whole, stopped), measured(whole)) == (0, measured(stopped))

def shapes(folder):
    "Pictures of several shapes"
    (folder/'shapes').mkdir()
    for n, (w, h) in enumerate([(96, 64), (64, 96), (64, 64), (128, 64), (120, 62), (64, 64)]):
        Image.linear_gradient('L').resize((w, h)).convert('RGB').save(folder/'shapes'/f'{n}.png')
    return folder/'shapes'

def test_a_killed_process_loses_nothing(tmp_path):
    settings = FEW | dict(max_train_steps=300, save_every_steps=20, log_every_steps=20)
    flags = [str(o) for k, v in settings.items() for o in (f'--{k}', v)]
    command = [sys.executable, '-m', 'automode.cli', 'train', str(SUBJECT), '--out', str(tmp_path/'killed'), '--name', 'lora', *flags]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not (tmp_path/'killed/checkpoints/step-000040').exists(): time.sleep(.001)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, said                 # it was still at work
    killed, whole = (trained(tmp_path/o, **settings) for o in ('killed', 'whole'))
    assert furthest(killed, whole) == 0

def environment(): return os.environ | dict(HF_HUB_OFFLINE='1', PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))

def test_recorded_steps_are_the_steps(tmp_path, monkeypatch):
    "What is recorded and played back gives what is computed step by step, with pictures of several sizes and of a class as well"
    for name, pictures, settings in (('plain', SUBJECT, {}), ('float32', SUBJECT, dict(mixed_precision='no')), ('fp16', SUBJECT, dict(mixed_precision='fp16')),
                                     ('many', shapes(tmp_path), dict(class_images=STYLE, gradient_accumulation_steps=2, batch_size=2))):
        recorded = trained(tmp_path/f'{name}-recorded', pictures, **settings)
        with monkeypatch.context() as patched:
            patched.setattr(automode.training.step, 'can_replay', lambda *args: False)
            computed = trained(tmp_path/f'{name}-computed', pictures, **settings)
        print(name, 'recorded and computed differ by', furthest(recorded, computed))
        assert furthest(recorded, computed) < 1e-6
        assert losses(recorded) == pytest.approx(losses(computed), rel=1e-6)

def test_recording_happens(tmp_path, monkeypatch, capsys):
    "Once for each size; and a run in a process where another was broken off is recorded as well"
    made, own = [], automode.training.step.Replay
    monkeypatch.setattr(automode.training.step, 'Replay', lambda *args: made.append(own(*args)) or made[-1])
    trained(tmp_path/'one')
    assert len(made) == 1
    step = Trainer.step
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, 'step', lambda trainer: (_ for _ in ()).throw(KeyboardInterrupt) if trainer.global_step == 3 else step(trainer))
        trained(tmp_path/'broken-off')
    made.clear()
    trained(tmp_path/'many', shapes(tmp_path))
    assert len(made) == 3 and 'CUDA graph capture failed' not in capsys.readouterr().out

def test_a_recording_that_fails_harms_nothing(tmp_path, monkeypatch, capsys):
    "The run goes on step by step, and so does the next one in the process, which is recorded again"
    own = Trainer.add_gradients
    def waits(trainer, batch, draws):
        loss = own(trainer, batch, draws)
        float(loss)                                                     # what cannot be recorded
        return loss
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, 'add_gradients', waits)
        failed = trained(tmp_path/'failed')
    assert 'CUDA graph capture failed' in capsys.readouterr().out
    assert torch.randn(3, device='cuda').isfinite().all()
    assert furthest(failed, trained(tmp_path/'next')) < 1e-6
    assert 'CUDA graph capture failed' not in capsys.readouterr().out

SETTINGS = dict(
    checkpointing=dict(gradient_checkpointing=True), text_encoder=dict(train_text_encoder=True), class_images=dict(class_images=STYLE),
    drawn_class=dict(num_class_images=3), ema=dict(ema_decay=.9), dora=dict(use_dora=True), loha=dict(adapter='loha'), lokr=dict(adapter='lokr'),
    conv=dict(conv_rank=4), dropout=dict(lora_dropout=.2), pissa=dict(init='pissa'), huber=dict(loss='huber', noise_offset=.05),
    accumulation=dict(gradient_accumulation_steps=2), flip=dict(flip_p=.5), memory=dict(cache='memory'), prodigy=dict(optimizer='prodigy', learning_rate=1.),
    schedule_free=dict(optimizer='schedule-free'), lion=dict(optimizer='lion', learning_rate=3e-4), adafactor=dict(optimizer='adafactor'),
    sgd=dict(optimizer='sgd', learning_rate=1.), samples=dict(sample_prompt='a rabbit', num_validation=1))

@pytest.mark.parametrize('precision, kind', [*(('bf16', o) for o in SETTINGS), *(('fp16', o) for o in ('text_encoder', 'class_images', 'dora', 'conv', 'samples'))])
def test_settings(tmp_path, precision, kind):
    "A few steps with each: numbers are finite, and something was learned"
    if SETTINGS[kind].get('optimizer') in ('prodigy', 'schedule-free', 'lion'):
        package = dict(prodigy='prodigyopt', lion='lion_pytorch').get(SETTINGS[kind]['optimizer'], 'schedulefree')
        if not find_spec(package): pytest.skip(f'{package} is not installed here')
    run = trained(tmp_path/'run', mixed_precision=precision, **(dict(max_train_steps=4) | SETTINGS[kind]))
    assert len(losses(run)) == 4 and np.isfinite(losses(run)).all()
    if kind == 'samples': keep(Image.open(run.samples[-1]), f'samples-{precision}')
    weights = load_file(run.lora)
    assert all(o.isfinite().all() for o in weights.values())
    learned = [v for k, v in weights.items() if re.search('lora_up|hada_w2_a|lokr_w1$|lokr_w2', k)] or list(weights.values())
    assert any(o.abs().max() > 0 for o in learned)

def test_checkpointing_and_compiling_change_nothing(tmp_path):
    "The same losses, to rounding, which the first steps of AdamW make larger"
    plain = losses(trained(tmp_path/'plain'))
    for name, most in (('gradient_checkpointing', .03), ('compile', .2)):
        found = losses(trained(tmp_path/name, **{name: True}))
        assert found[:2] == pytest.approx(plain[:2], rel=.03) and found == pytest.approx(plain, rel=most), name

@needs_bitsandbytes
@pytest.mark.parametrize('kind', ['nf4', 'int8'])
def test_a_quantised_base(tmp_path, kind):
    "It trains nearly as the whole one does, with the same learning rate, is stopped and gone on with, and draws"
    settings = dict(learning_rate=None, sample_prompt='a picture of a rabbit')
    whole, small = trained(tmp_path/'whole', **settings), trained(tmp_path/'small', quantize=kind, **settings)
    assert small.config['learning_rate'] == whole.config['learning_rate']
    assert losses(small) == pytest.approx(losses(whole), rel=.25)
    keep(Image.open(small.samples[-1]), kind)
    assert is_drawing(Image.open(small.samples[-1]))
    before = load_file(small.lora)
    small.lora.unlink()
    shutil.rmtree(small.checkpoints[-1])
    after = load_file(trained(tmp_path/'small', quantize=kind, **settings).lora)
    assert all(torch.equal(after[k], v) for k, v in before.items())

@needs_bitsandbytes
def test_an_optimiser_in_8_bits(tmp_path):
    few = losses(trained(tmp_path/'few', optimizer='adamw8bit', rank=64, max_train_steps=20))     # large enough that its numbers are in 8 bits
    assert few == pytest.approx(losses(trained(tmp_path/'all', rank=64, max_train_steps=20)), rel=.1)

def test_a_gpu_that_is_left_alone(tmp_path):
    "In the same process, after a run on the GPU, and before another"
    trained(tmp_path/'gpu', max_train_steps=1)
    with peak() as taken: trained(tmp_path/'cpu', device='cpu', max_train_steps=1)
    assert taken[0] == 0
    with peak() as taken: trained(tmp_path/'again', max_train_steps=1)
    assert taken[0] > 0


# --- memory

@pytest.mark.parametrize('settings', [dict(), dict(mixed_precision='no'), dict(gradient_checkpointing=True), dict(conv_rank=8, ema_decay=.9)], ids=str)
def test_the_estimate_is_near_what_is_taken(tmp_path, monkeypatch, settings):
    "The figure that is said before the first step, beside the most that was given out"
    said, own = [], automode.train.estimate
    monkeypatch.setattr(automode.train, 'estimate', lambda *args: said.append(own(*args)) or said[0])
    trained(tmp_path/'first', max_train_steps=1)                       # libraries take what they need
    said.clear()
    with peak() as taken: trained(tmp_path/'run', batch_size=96, max_train_steps=2, **settings)
    print(f'{settings}: said {said[0].peak/MB:.0f} MB, taken {taken[0]/MB:.0f} MB, {said[0].peak/taken[0]:.2f}')
    assert .75 < said[0].peak/taken[0] < 1.33

def test_memory_that_runs_out_is_answered_with_what_fits(tmp_path):
    "One sentence; and each setting that it names does fit where memory ran out"
    large = dict(batch_size=256, max_train_steps=2)
    trained(tmp_path/'first', max_train_steps=1)
    with peak() as taken: trained(tmp_path/'large', **large)
    with limited(.6 * taken[0]):
        with pytest.raises(Problem, match='out of memory with 256 images of 64 pixels at a time') as raised: trained(tmp_path/'small', **large)
        text = str(raised.value)
        print(text)
        offered = [dict(re.findall(r'--(\w+)(?: ([\w.]+))?', o)) for o in text.partition('would fit: ')[2].split(', or ')]
        assert offered
        raised = None                                                   # what failed is held by its traceback
        for n, o in enumerate(offered):
            if {'nf4', 'adamw8bit'} & set(o.values()) and not find_spec('bitsandbytes'): continue
            values = {k: True if v == '' else int(v) if v.isdigit() else v for k, v in o.items()}
            run = trained(tmp_path/f'fits-{n}', **(large | values))
            assert run.lora.exists()

def test_memory_that_runs_out_before_the_first_step(tmp_path):
    with limited(20*MB), pytest.raises(Problem, match='out of memory before the first step'): trained(tmp_path/'run')


# --- captions

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('captions')
    for n in range(240): shutil.copy(sorted(STYLE.glob('*.png'))[n % 24], folder/f'{n:03}.png')
    return folder

def captions(pictures, out, **settings): return {o['file_name']: o for o in caption_folder(pictures, out=out, prompt='a picture of', **settings)}

def test_captions_are_those_of_the_cpu(pictures, tmp_path):
    few = tmp_path/'few'
    few.mkdir()
    for o in sorted(pictures.glob('*.png'))[:24]: shutil.copy(o, few)
    ways = dict(beams={}, greedy=dict(num_beams=1), drawn=dict(top_p=.9, num_captions=3))
    for name, way in ways.items():
        cpu, gpu = (captions(few, tmp_path/f'{name}-{o}', device=o, dtype='float32', **way) for o in ('cpu', 'cuda'))
        assert {k: o['text'] for k, o in gpu.items()} == {k: o['text'] for k, o in cpu.items()}
        for k, o in gpu.items(): assert o['score'] == pytest.approx(cpu[k]['score'], abs=2e-3)
    half = captions(few, tmp_path/'half')                              # what a GPU does by itself
    print(sum(half[k]['text'] == o['text'] for k, o in captions(few, tmp_path/'cpu', device='cpu').items()), 'of 24 captions are the same in half precision')

def test_captions_do_not_depend_on_the_batch(pictures, tmp_path):
    one, many = (captions(pictures, tmp_path/str(o), batch_size=o, dtype='float32') for o in (7, 64))
    assert {k: o['text'] for k, o in one.items()} == {k: o['text'] for k, o in many.items()}

def test_the_batch_is_found(pictures, tmp_path, monkeypatch):
    "By itself where there is room, and what fits where there is little"
    chosen, own = [], CaptionRun.choose_batch_size
    monkeypatch.setattr(CaptionRun, 'choose_batch_size', lambda self: chosen.append(own(self)) or chosen[0])
    found = captions(pictures, tmp_path/'found')
    assert 4 <= chosen[0] <= 512 and len(found) == 240
    captioner, image = load_captioner('starter', 'cuda'), Image.open(pictures/'000.png').convert('RGB')
    with peak() as taken: captioner([image]*32, 'a picture of', num_beams=3)
    with limited(2 * taken[0]): fits = find_batch_size(captioner, image, 'a picture of', num_beams=3)
    print('found', chosen[0], 'with all memory,', fits, 'with twice that of 32')
    assert 4 <= fits <= 128
    del captioner
    with limited(4 * taken[0]): little = captions(pictures, tmp_path/'little', batch_size=240)
    assert all(o['text'] for o in little.values())


# --- drawing

def test_drawings_are_those_of_the_cpu():
    prompts = ['a picture of a rabbit', 'a picture of a red apple', 'a picture of a house']
    drawn = {o: generate(prompts, seed=1, device=o[0], dtype=o[1]) for o in (('cpu', 'float32'), ('cuda', 'float32'), ('cuda', 'bfloat16'), ('cuda', 'float16'))}
    keep(image_grid([o for row in drawn.values() for o in row], [' '.join(o) for o in drawn for _ in prompts], cols=3, size=128), 'devices')
    cpu = drawn['cpu', 'float32']
    off = {o: max(float(np.abs(pixels(a) - pixels(b)).mean()) for a, b in zip(row, cpu)) for o, row in drawn.items()}
    print('mean difference to the CPU, of 255:', off)
    assert off['cuda', 'float32'] < 1
    assert off['cuda', 'bfloat16'] < 10 and off['cuda', 'float16'] < 5     # the same picture, in fewer digits
    assert all(is_drawing(o) for row in drawn.values() for o in row)
    again = generate(prompts[0], seed=1, device='cuda', dtype='bfloat16')
    assert pixels(again[0]).tolist() == pixels(generate(prompts[0], seed=1, device='cuda', dtype='bfloat16')[0]).tolist()


# --- the whole line

def test_the_demo(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'automode.cli', 'demo', '--out', 'demo', '--max_train_steps', '150'], cwd=tmp_path, env=environment(),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0 and 'Traceback' not in done.stdout, done.stdout
    print(done.stdout)
    run = Run(tmp_path/'demo/run')
    assert run.lora.exists() and (tmp_path/'demo/report.html').exists()
    sheet = Image.open(tmp_path/'demo/before_after.png')
    keep(sheet, 'before_after')
    assert is_drawing(sheet)
