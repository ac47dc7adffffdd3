#!/usr/bin/env python
"""Build the wheel and the sdist, install the wheel into a fresh environment, and use it there as a person would

    python tests/package_check.py             with the newest releases of everything it needs
    python tests/package_check.py --oldest    with the oldest that settings.ini admits; torch stays the newest

Takes minutes and some gigabytes under the system's temporary folder, which it removes in the end; so it is no part of `pytest`.
`--torch===2.13.0` takes another torch.
"""
import argparse, json, os, re, shlex, shutil, subprocess, sys, tarfile, tempfile, time
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# what is run in the fresh environment: every module, every public name, and what is cheap to call
SMOKE = r'''
import contextlib, importlib, inspect, io, os, sys, tempfile, warnings
from importlib.metadata import version
from pathlib import Path
warnings.simplefilter('ignore')
import automode
home = Path(automode.__file__).parent
assert 'site-packages' in str(home), home
assert (home/'py.typed').exists() and (home/'run.pyi').exists()
names, without = 0, []
for path in sorted(home.rglob('*.py')):
    if path.stem.startswith('_'): continue
    module = importlib.import_module('.'.join(path.relative_to(home.parent).with_suffix('').parts))
    for name in module.__all__:
        thing = getattr(module, name)
        names += 1
        if not callable(thing) or getattr(thing, '__module__', None) != module.__name__: continue
        try: inspect.signature(thing)
        except ValueError: pass                                     # a class of C's
        if not thing.__doc__: without.append(f'{module.__name__}.{name}')
assert not without, f'no docstring: {without}'
os.chdir(tempfile.mkdtemp())
from PIL import Image
from automode.data.images import find_images, image_grid, open_image, image_size, data_uri
from automode.starter import sample_pictures, starter_folder, starter_names, provenance
pictures = sample_pictures('subject')
assert len(find_images(pictures[0].parent)) == 6 and image_size(pictures[0])
grid = image_grid([open_image(o) for o in pictures])
assert data_uri(grid).startswith('data:image/jpeg') and len(starter_names()) > 100 and 'Apache' in provenance()
from automode.caption import caption_folder
from automode.data.dataset import Dataset
with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
    dataset = caption_folder(pictures[0].parent, captioner='starter', num_beams=1, out='dataset')
assert len(dataset) == 6 and all(o['text'] for o in dataset)
from automode.check import check_dataset
assert check_dataset('dataset').text(3)
from automode.captions.edits import change_captions, count_words
from automode.captions.history import undo
with contextlib.redirect_stdout(io.StringIO()): change_captions('dataset', prefix='ink, ')
assert Dataset.read('dataset').trainable()[0]['text'].startswith('ink, ') and count_words('dataset') is not None
undo('dataset')
from automode.convert import convert
assert convert('dataset', 'kohya', to='kohya').rejected == []
from automode.lora.adapters import add_adapter
from automode.lora.files import save_lora, read_lora_info
from automode.models.load import load_base
base = load_base('starter', 'cpu')
add_adapter(base.unet, rank=2)
assert read_lora_info(save_lora('a.safetensors', base))['rank'] == 2
from automode.lora.tools import convert as convert_lora, info, info_text
assert info_text(info(convert_lora('a.safetensors', 'b.safetensors', 'diffusers')))
from automode.generate import generate
with contextlib.redirect_stderr(io.StringIO()): assert generate('a picture of a fish', lora='a.safetensors', num_inference_steps=2)[0].size == (64, 64)
from automode.captions.review import Review
from automode.training.optim import installed_optimizers
from automode.widgets.playground import playground
from automode.widgets.review import review
from automode.widgets.run import watch
assert len(Review('dataset')) == 6 and callable(review) and callable(watch) and callable(playground)
told = ', '.join(f'{o} {version(o)}' for o in 'torch transformers diffusers peft accelerate huggingface_hub numpy pillow fastcore'.split())
print(f'{names} public names, all with a signature and a docstring; called what is cheap; optimisers {", ".join(installed_optimizers())}')
print(told)
'''

# the lines for diffusers in the card of the demo
CARD = r'''
import re, pathlib
card = pathlib.Path('README.md').read_text()
exec(re.search(r'```python\n(.*?)```', card, re.S)[1].replace(').images[0]', ', num_inference_steps=2).images[0]'))
assert pathlib.Path('new.png').exists() and pipeline.get_list_adapters()['unet']
print('the lines of the card draw')
'''


def settings():
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

def run(*command, **more):
    "Run a command; what it says is shown when it fails"
    done = subprocess.run([str(o) for o in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    if done.returncode: sys.exit(f"{shlex.join(str(o)[:200] for o in command)}\nended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout

def step(text, since):
    print(f'{text} ({time.time() - since:.0f} s)', flush=True)
    return time.time()

def build(out):
    "The wheel and the sdist, made with the standard tools"
    copy = out/'source'
    names = run('git', 'ls-files', '-co', '--exclude-standard', cwd=ROOT).split('\n')
    for name in filter(None, names):
        if not (ROOT/name).is_file(): continue
        (copy/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT/name, copy/name)
    run(sys.executable, '-m', 'build', '--outdir', out/'dist', copy)
    return next((out/'dist').glob('*.whl')), next((out/'dist').glob('*.tar.gz'))

def check_contents(wheel, sdist):
    "What the two hold, and what they must not: of the wheel, tests/test_package.py knows it"
    run(sys.executable, '-m', 'pytest', '-q', '-n', '0', ROOT/'tests'/'test_package.py', '-k', 'wheel', cwd=ROOT, env=os.environ | dict(AUTOMODE_WHEEL=str(wheel)))
    data = [o.relative_to(ROOT).as_posix() for o in (ROOT/'automode'/'assets').rglob('*') if o.is_file()]
    with tarfile.open(sdist) as t: there = {o.partition('/')[2] for o in t.getnames()}
    missing = [o for o in [*data, *'settings.ini setup.py pyproject.toml README.md LICENSE CHANGELOG.md CITATION.cff'.split()] if o not in there]
    strange = [o for o in there if o.startswith(('nbs', 'tests', '.ci'))]
    if missing or strange: sys.exit(f'the sdist lacks {missing} and holds {strange}')
    return f'{wheel.name} {wheel.stat().st_size/1e6:.1f} MB; {sdist.name} {sdist.stat().st_size/1e6:.1f} MB'

def constraints(torch, oldest):
    "A line for torch, and with `oldest` one for the lowest release of each package that settings.ini admits"
    from packaging.requirements import Requirement
    from packaging.version import VERSION_PATTERN, Version
    lines = [f'torch{torch}'] if torch else []
    for text in shlex.split(settings()['requirements']) if oldest else []:
        need = Requirement(text)
        if need.name == 'torch' or (need.marker and not need.marker.evaluate()): continue
        said = run(sys.executable, '-m', 'pip', 'index', 'versions', need.name, '--disable-pip-version-check')
        found = [Version(o) for o in re.findall(r'[\w.+-]+', re.search(r'Available versions: (.*)', said)[1]) if re.fullmatch(VERSION_PATTERN, o, re.X | re.I)]
        lines.append(f'{need.name}=={min(o for o in found if o in need.specifier)}')
    return lines

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--oldest', action='store_true', help='the oldest releases that settings.ini admits')
    parser.add_argument('--torch', default='', help='which torch, e.g. --torch===2.13.0; the newest when not given')
    args = parser.parse_args()
    place, at = Path(tempfile.mkdtemp(prefix='automode-package-')), time.time()
    try:
        wheel, sdist = build(place)
        at = step(f'built: {check_contents(wheel, sdist)}', at)
        lines = constraints(args.torch, args.oldest)
        (place/'constraints.txt').write_text('\n'.join(lines) + '\n')
        at = step('constraints: ' + (' '.join(lines) or 'none'), at)
        run(sys.executable, '-m', 'venv', place/'venv')
        python, command = place/'venv'/'bin'/'python', place/'venv'/'bin'/'automode'
        env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')}
        env |= dict(HF_HUB_OFFLINE='1', HF_HOME=str(place/'hf'), MPLBACKEND='Agg', PATH=f"{python.parent}{os.pathsep}{os.environ['PATH']}")
        run(python, '-m', 'pip', 'install', '-q', '-c', place/'constraints.txt', wheel, env=env)
        at = step('installed', at)
        print(run(python, '-m', 'pip', 'check', env=env).strip())
        print(run(python, '-c', SMOKE, cwd=place, env=env).strip())
        at = step('every module imported, the public names looked at', at)
        print(run(command, '--version', cwd=place, env=env).strip(), '|', run(python, '-W', 'error', '-c', 'import automode', cwd=place, env=env) or 'imports without a warning')
        said = run(command, 'demo', '--out', 'demo', '--max_train_steps', '10', cwd=place, env=env)
        assert (place/'demo'/'report.html').exists() and (place/'demo'/'before_after.png').exists(), said
        print(run(python, '-c', CARD, cwd=place/'demo'/'run', env=env).strip().splitlines()[-1])
        listed = run(command, 'push', 'demo', 'me/demo', '--dry_run', cwd=place, env=env)
        assert listed.endswith('dry run: nothing was uploaded\n'), listed
        at = step('automode demo, the card, automode push --dry_run', at)
        frozen = json.loads(run(python, '-m', 'pip', 'list', '--format', 'json', env=env))
        print(f"{len(frozen)} packages, {sum(o.stat().st_size for o in (place/'venv').rglob('*') if o.is_file() and not o.is_symlink())/1e9:.1f} GB")
    finally: shutil.rmtree(place, ignore_errors=True)
    print('all is well')


if __name__ == '__main__': main()
