"""The `automode` command in real processes: valid input, invalid input, a full disk, Ctrl-C"""
import json, os, pty, re, resource, select, shutil, signal, subprocess, sys, sysconfig, time
from pathlib import Path

import pytest
from PIL import Image

from automode.core import asset_path
from automode.lora.files import read_lora_info
from warm import warm

COMMAND = Path(sysconfig.get_path('scripts'))/'automode'
COMMANDS = 'caption check edit convert train generate lora push run demo dreambooth completion'.split()
SUBJECT, STYLE = asset_path('samples', 'subject'), asset_path('samples', 'style')
FLAGS = {
    'caption': 'captioner prompt out keep_prompt num_captions recaption overwrite batch_size num_beams max_new_tokens top_p seed background '
               'allow_private strict device dtype',
    'check': 'base resolution token class_word strict',
    'edit': 'find replace regex drop drop_repeats prefix suffix put_token token class_word template existing dry_run undo redo',
    'convert': 'to from token class_word repeats strict',
    'train': 'base out name max_train_steps batch_size rank alpha learning_rate resolution seed save_every_steps token class_word train_text_encoder flip_p device',
    'generate': 'base lora prompt seed num_images out num_inference_steps guidance_scale lora_scale negative_prompt resolution',
    'run': 'captioner base out prompt max_train_steps batch_size rank alpha learning_rate resolution seed',
    'demo': 'out',
    'push': 'private dry_run with_captions',
    'completion': '',                                                       # it takes a shell and no flag
    'lora': 'out to base weights rank conv_rank energy dtype',
    'dreambooth': 'project_name training_model regularization_images training_images max_training_steps class_word token flip_p learning_rate '
                  'save_every_x_steps seed token_only config_file_path debug gpu'}


def automode(*args, cwd=None, **kwargs):
    "Run the command and wait for it, in a process that has the libraries imported already unless it needs more than a folder"
    if not kwargs: return warm.command(*args, cwd=cwd)
    return subprocess.run([str(COMMAND), *map(str, args)], capture_output=True, text=True, timeout=300, cwd=cwd, **kwargs)

def fails(done, *words, code=1):
    "Check that the command ended with one sentence that has all `words`, and without a traceback"
    said = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert 'Traceback' not in done.stderr, done.stderr
    said = [o for o in said if o.startswith('automode')]
    assert len(said) == 1 and all(o in said[0] for o in words), done.stderr
    return said[0]

def tree(folder):
    "Every file below `folder` with its size, without lock files"
    files = [o for o in sorted(Path(folder).rglob('*')) if o.is_file() and not re.fullmatch(r'lock(-\w+)?', o.name)]
    return {o.relative_to(folder).as_posix(): o.stat().st_size for o in files}

def images(folder, num=3, source=STYLE):
    "A folder with the first `num` sample images"
    folder.mkdir(parents=True, exist_ok=True)
    for o in sorted(source.glob('*.png'))[:num]: shutil.copy(o, folder)
    return folder

def captioned(folder, num=3):
    "The same with captions that count as written by hand"
    images(folder, num)
    rows = [dict(file_name=o.name, text=f'a picture of thing {n}') for n, o in enumerate(sorted(folder.glob('*.png')))]
    (folder/'metadata.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in rows))
    return folder


# --- help

@pytest.mark.parametrize('command', COMMANDS)
def test_help_lists_the_flags_and_an_example(command):
    done = automode(command, '--help')
    assert (done.returncode, done.stderr) == (0, '')
    assert f'automode {command} ' in done.stdout.split('example:')[1]
    there = set(re.findall(r'--(\w+)', done.stdout.split('example:')[0]))
    assert set(FLAGS[command].split()) <= there and 'help' in there
    if not FLAGS[command]: assert there == {'help'} and 'SHELL' in done.stdout

def test_every_command_is_listed_and_has_an_example_of_each_action():
    from automode.cli.commands import commands, flag_words
    assert sorted(commands) == sorted(COMMANDS)
    for name, command in commands.items():
        lines = [o.strip() for o in command.example.splitlines()]
        assert all(re.match(rf'(accelerate launch .*-m automode\.cli|(source <\()?automode) {name}\b', o) for o in lines), lines
        actions = flag_words().get(f'{name} action', ())
        assert all(any(o.startswith(f'automode {name} {action} ') for o in lines) for action in actions)

def test_the_help_of_a_flag_is_written_once():
    "A command has no docment for a parameter of its step, except where the flag does more: `--from` imports a folder too"
    from automode.cli.commands import commands
    from automode.cli.flags import read_flags, read_function
    twice = {}
    for name, command in commands.items():
        if not command.step: continue
        steps = {command.names.get(k, k) for k in read_flags(read_function(command.step))}
        twice[name] = [k for k, o in read_flags(command.function).items() if o.help and k in steps]
    assert {k: o for k, o in twice.items() if o} == {'edit': ['from_']}

def test_the_step_that_is_read_is_the_one_that_is_called():
    "Signatures read from the source are those of the imported functions"
    import inspect
    from automode.cli.commands import commands
    from automode.cli.flags import read_function
    from automode.options import load_name
    for command in filter(None, {o.step for o in commands.values()}):
        read, real = read_function(command), inspect.unwrap(load_name(command))
        defaults = {k: o.default for k, o in inspect.signature(read).parameters.items() if o.kind is not o.VAR_KEYWORD}
        known = inspect.signature(real).parameters
        assert read.__doc__ == real.__doc__ and {k: known[k].default for k in defaults} == defaults

def test_an_earlier_name_of_a_command_works_and_is_not_listed(tmp_path):
    folder = captioned(tmp_path/'images')
    done = automode('captions', folder, '--prefix', 'ink, ')
    assert (done.returncode, done.stderr) == (0, 'note: automode captions is now automode edit\n')
    assert json.loads((folder/'metadata.jsonl').read_text().splitlines()[0])['text'] == 'ink, a picture of thing 0'
    assert not re.search(r'^  captions ', automode('--help').stdout, re.M)

def test_help_without_a_command():
    for args in ([], ['--help'], ['-h']):
        done = automode(*args)
        assert done.returncode == 0 and all(f'\n  {o} ' in done.stdout for o in COMMANDS) and 'examples:' in done.stdout

def test_version():
    import automode as package
    assert automode('--version').stdout == f'automode {package.__version__}\n'

@pytest.mark.parametrize('command', COMMANDS)
def test_an_unknown_flag_is_an_error(command, tmp_path):
    places = ['images']*(command in ('caption', 'check', 'edit', 'train', 'run')) + ['a', 'b']*(command in ('convert', 'push'))
    done = automode(command, *places, '--sead', '1', cwd=tmp_path)
    said = fails(done, '--sead', code=2)
    assert 'did you mean --seed?' in said or 'seed' not in FLAGS[command].split()
    assert not tree(tmp_path)

def test_an_unknown_command_is_an_error():
    done = automode('trian', 'images')
    assert done.returncode == 2 and 'did you mean train?' in done.stderr and 'Traceback' not in done.stderr

@pytest.mark.parametrize('args, words', [
    (['caption'], 'IMAGES is missing'), (['train', 'x', '--rank', 'many'], "invalid int value: 'many'"),
    (['dreambooth', '--debug', 'perhaps'], "must be yes or no, got 'perhaps'"), (['generate', '--prompt'], 'expected at least one argument')])
def test_an_invalid_flag_is_an_error(args, words): fails(automode(*args), words, code=2)


# --- Tab

@pytest.fixture(scope='module')
def script(): return automode('completion', 'bash').stdout

def tab(script, *typed):
    "Completions in bash for the last word"
    asked = (f'source <(cat <<"END"\n{script}END\n); COMP_WORDS=(automode {" ".join(repr(o) for o in typed)}); COMP_CWORD={len(typed)}; '
             '_automode; printf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run(['bash', '-c', asked], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()

@pytest.mark.parametrize('command', COMMANDS)
def test_tab_offers_the_flags_of_each_command(command, script):
    assert command in tab(script, command[:3])
    assert {f'--{o}' for o in FLAGS[command].split()} <= set(tab(script, command, '--'))

def test_tab_offers_the_values_of_a_flag(script):
    assert set(COMMANDS) | {'--version'} <= set(tab(script, ''))
    assert tab(script, 'train', 'holiday', '--adapter', 'lo') == ['lora', 'loha', 'lokr']
    assert tab(script, 'train', '--learn') == ['--learning_rate']
    assert tab(script, 'lora', '') == ['info', 'convert', 'resize', 'merge'] and tab(script, 'lora', 'convert', 'x', '--to', '') == ['kohya', 'diffusers']
    assert 'kohya' in tab(script, 'convert', 'a', 'b', '--to', '') and tab(script, 'edit', 'x', '--where_status', 'ex') == ['excluded']
    assert tab(script, 'completion', '') == ['bash', 'zsh', 'fish'] and tab(script, 'completion', '--') == ['--help']
    assert tab(script, 'train', 'holi') == []                              # files, by bash itself

def test_the_line_for_bashrc_works():
    line = f"source <({COMMAND} completion bash) && complete -p automode"
    assert subprocess.run(['bash', '-c', line], capture_output=True, text=True).stdout == 'complete -o default -F _automode automode\n'

@pytest.mark.parametrize('shell', ['bash', 'zsh', 'fish'])
def test_each_shell_reads_its_script(shell):
    if not shutil.which(shell): pytest.skip(f'{shell} is not installed')
    done = subprocess.run([shell, '-n'], input=automode('completion', shell).stdout, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')

def fish_tab(script, typed, folder):
    "Completions in fish for the last word"
    done = subprocess.run(['fish', '-c', f'source {script}; complete -C "{typed}"'], capture_output=True, text=True, cwd=folder)
    return [o.split('\t')[0] for o in done.stdout.splitlines()]

def zsh_tab(script, typed, folder):
    "Completions in zsh for the last word, listed by Ctrl-D in a terminal of its own"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe('zsh', ['zsh', '-f', '-i'], os.environ | dict(TERM='dumb'))
    def read():
        said = ''
        while 'now> ' not in said and select.select([terminal], [], [], 30)[0]: said += os.read(terminal, 65536).decode(errors='replace')
        return said.partition('now> ')[0]
    os.write(terminal, f"stty rows 99 cols 199; unsetopt prompt_sp; autoload -Uz compinit; compinit -u -D; source {script}; LISTMAX=999; PS1='now''> '\n".encode())
    read()
    os.write(terminal, f'{typed}\x04'.encode())
    lines = read().splitlines()[1:]
    os.close(terminal)
    os.waitpid(pid, 0)
    return [word for o in lines for word in ([o.split()[0]] if ' -- ' in o else o.split())]

@pytest.mark.parametrize('shell', ['bash', 'zsh', 'fish'])
def test_a_folder_named_like_a_command_is_a_folder(shell, tmp_path):
    "Above all `run`, the default of --out"
    if not shutil.which(shell): pytest.skip(f'{shell} is not installed')
    for o in ('run', 'train', 'out'): (tmp_path/o).mkdir()
    script = tmp_path/'script'
    script.write_text(automode('completion', shell).stdout)
    offered = lambda *typed: sorted(tab(script.read_text(), *typed) if shell == 'bash' else dict(zsh=zsh_tab, fish=fish_tab)[shell](script, ' '.join(['automode', *typed]), tmp_path))
    assert offered('push', 'run', '--') == offered('push', 'out', '--') == ['--dry_run', '--help', '--private', '--with_captions']
    assert offered('lora', 'info', 'run', '--c') == ['--conv_rank']
    assert offered('train', 'run', '--adapter', 'lo') == ['loha', 'lokr', 'lora'] and 'resize' not in offered('lora', 'info', '')
    assert set(COMMANDS) <= set(offered(''))

def test_completion_loads_nothing_heavy():
    code = "import sys; from automode.cli.commands import main; main(['completion', 'zsh']); print(*(o for o in ('torch', 'diffusers') if o in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, '')


# --- bad input

BAD = {
    'an empty folder': (['caption', 'empty'], "no images in 'empty'"),
    'a missing folder': (['caption', 'gone'], "'gone' is not there"),
    'a file instead of a folder': (['caption', 'text.txt'], 'text.txt'),
    'a private URL': (['caption', 'https://localhost/x.png'], 'allow_private'),
    'a URL of another scheme': (['caption', 'ftp://example.org/x.png'], 'ftp'),
    'no dataset to edit': (['edit', 'uncaptioned', '--prefix', 'x'], 'automode caption uncaptioned'),
    'an unknown format': (['convert', 'captioned', 'new', '--to', 'zip'], "got 'zip'"),
    'a missing folder to check': (['check', 'gone'], 'gone'),
    'no captions': (['train', 'uncaptioned'], 'automode caption uncaptioned'),
    'an empty folder to train on': (['train', 'empty'], "'empty'"),
    'an empty folder to run on': (['run', 'empty'], "no images in 'empty'"),
    'a missing captioner': (['caption', 'uncaptioned', '--captioner', './gone'], 'neither a folder nor'),
    'a captioner that cannot be downloaded': (['caption', 'uncaptioned', '--captioner', 'nobody/nothing'], 'not a folder here and could not be fetched'),
    'a missing base': (['train', 'captioned', '--base', 'C:\\models\\sd.ckpt'], 'neither a folder nor'),
    'a base that cannot be downloaded': (['generate', '--prompt', 'x', '--base', 'nobody/nothing'], 'not a folder here and could not be fetched'),
    'a folder that is not a base': (['generate', '--prompt', 'x', '--base', 'captioned'], 'captioned'),
    'a missing LoRA': (['generate', '--prompt', 'x', '--lora', 'run/run.safetensors'], "'run/run.safetensors' is not there"),
    'a broken LoRA': (['generate', '--prompt', 'x', '--lora', 'broken.safetensors'], 'broken.safetensors'),
    'a missing device': (['generate', '--prompt', 'x', '--device', 'cuda:7'], 'cuda:7'),
    'no prompt': (['generate'], '--prompt'),
    'an unsupported resolution': (['generate', '--prompt', 'x', '--resolution', '100'], 'the nearest is 96'),
    'an unknown shell': (['completion', 'tcsh'], 'bash, zsh, fish'),
    'not a run to upload': (['push', 'captioned', 'me/lora', '--dry_run'], 'not a training run'),
    'rank 0': (['train', 'captioned', '--rank', '0'], 'rank must be 1 or more, got 0'),
    'a probability above 1': (['train', 'captioned', '--flip_p', '50'], 'flip_p must be between 0 and 1, got 50'),
}

@pytest.fixture(scope='module')
def bad_place(tmp_path_factory):
    "A folder with one of each invalid input"
    top = tmp_path_factory.mktemp('bad')
    (top/'empty').mkdir()
    (top/'text.txt').write_text('not an image')
    (top/'broken.safetensors').write_bytes(b'not a LoRA')
    images(top/'uncaptioned')
    captioned(top/'captioned')
    return top

@pytest.mark.parametrize('what', BAD)
def test_bad_input_gets_one_sentence(what, bad_place):
    args, words = BAD[what]
    before = tree(bad_place)
    fails(automode(*args, cwd=bad_place), words)
    assert tree(bad_place) == before                                        # and nothing is left behind


# --- the steps

def test_a_file_that_is_not_an_image_is_named_skipped_and_counted(tmp_path):
    folder = images(tmp_path/'images')
    (folder/'broken.png').write_bytes(b'\x89PNG\r\n\x1a\nand then nothing')
    (folder/'renamed.jpg').write_text('a text with another name')
    done = automode('caption', folder, '--num_beams', '1')
    assert done.returncode == 0, done.stderr
    assert 'broken.png' in done.stderr and 'renamed.jpg' in done.stderr and 'Traceback' not in done.stderr
    assert done.stdout.endswith('captioned 3, skipped 0, rejected 2: see rejected.jsonl\n')
    rows = [json.loads(o) for o in (folder/'metadata.jsonl').read_text().splitlines()]
    assert len([o for o in rows if o['text'].startswith('a photography of')]) == 3

def test_a_dataset_is_captioned_edited_checked_and_converted(tmp_path):
    folder = images(tmp_path/'holiday', 4)
    (folder/'diary.jpg').write_text('Dear diary')
    def done(*args, code=0):
        got = automode(*args, cwd=tmp_path)
        assert got.returncode == code and 'Traceback' not in got.stderr, got.stderr
        return got.stdout
    texts = lambda: [json.loads(o)['text'] for o in (folder/'metadata.jsonl').read_text().splitlines()]
    assert 'captioned 4, skipped 0, rejected 1: see rejected.jsonl' in done('caption', 'holiday', '--strict', code=1)
    assert json.loads((folder/'rejected.jsonl').read_text())['file_name'] == 'diary.jpg'
    before = texts()
    assert 'captioned 4, ' in done('caption', 'holiday', '--overwrite', '--prompt', 'a picture of', '--keep_prompt', 'no', '--num_captions', '3')
    assert not any('picture of' in o for o in texts())
    after = texts()
    assert 'dry run' in done('edit', 'holiday', '--prefix', 'ink drawing, ', '--dry_run').splitlines()[-1] and texts() == after
    done('edit', 'holiday', '--prefix', 'ink drawing, ')
    assert texts() == ['ink drawing, ' + o for o in after]
    done('edit', 'holiday', '--undo')
    assert texts() == after and texts() != before
    said = done('check', 'holiday', '--token', 'tiantian', '--class_word', 'thing', '--strict', code=1)
    assert 'diary.jpg' in said and 'tiantian thing, ' in said and '1 error' in said
    said = done('convert', 'holiday', 'for_kohya', '--to', 'kohya', '--repeats', '3', '--token', 'tiantian', '--class_word', 'thing', '--strict', code=1)
    assert said == 'read as: a dataset of automode, captions from metadata.jsonl\nconverted 4, rejected 1: see rejected.jsonl\n'
    assert len(list((tmp_path/'for_kohya'/'3_tiantian thing').glob('*.txt'))) == 4
    (folder/'diary.jpg').unlink()
    assert done('caption', 'holiday', '--strict').endswith('captioned 0, skipped 4, rejected 0\n')
    assert not (folder/'rejected.jsonl').exists()

def test_generate_is_deterministic(tmp_path):
    args = 'generate', '--prompt', 'a picture of rabbit face', '--num_images', '2', '--num_inference_steps', '3'
    once, again = automode(*args, '--out', tmp_path/'once'), automode(*args, '--out', tmp_path/'again', '--batch_size', '1')
    assert (once.returncode, again.returncode) == (0, 0), once.stderr + again.stderr
    names = sorted(o.name for o in (tmp_path/'once').iterdir())
    assert names == ['a-picture-of-rabbit-face-0.png', 'a-picture-of-rabbit-face-1.png']
    for o in names:
        a, b = (Image.open(tmp_path/p/o) for p in ('once', 'again'))
        assert max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes())) <= 1
        assert 'Steps: 3' in a.info['parameters']


# --- a full disk

@pytest.fixture
def small_disk(tmp_path):
    "A folder with room for 40 kB, and arguments that limit a process to it"
    disk = tmp_path/'disk'
    disk.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=40k', 'tmpfs', str(disk)], capture_output=True).returncode == 0
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    yield disk, {} if mounted else dict(preexec_fn=limit)
    if mounted: subprocess.run(['umount', str(disk)], check=True)

def whole(folder):
    "Check that no file is half-written: images open, rows and settings parse, no temporary files"
    for o in Path(folder).rglob('*'):
        assert not o.name.endswith('.tmp') and (o.name == '.automode' or not o.name.startswith('.')), o
        if o.suffix == '.png': Image.open(o).load()
        if o.suffix == '.json': json.loads(o.read_text())
        if o.suffix == '.jsonl': [json.loads(row) for row in o.read_text().splitlines()]

FULL = re.compile(r'[Nn]o space left|[Ff]ile too large')

@pytest.mark.parametrize('args', [
    ['caption', 'images', '--out', 'disk/captioned'],
    ['generate', '--prompt', 'a picture of fish', '--num_images', '16', '--num_inference_steps', '1', '--out', 'disk/pics'],
    ['train', 'captioned', '--max_train_steps', '2', '--batch_size', '1', '--out', 'disk/run']], ids=lambda o: o[0])
def test_a_full_disk(args, tmp_path, small_disk):
    images(tmp_path/'images', 24)
    captioned(tmp_path/'captioned', 2)
    disk, limit = small_disk
    said = fails(automode(*args, cwd=tmp_path, **limit))
    assert FULL.search(said)
    whole(disk)

def test_a_full_disk_keeps_the_captions_that_were_there(tmp_path, small_disk):
    disk, limit = small_disk
    folder = captioned(disk, 1)
    images(folder, 2)                                                     # a second image, without a caption
    before = (folder/'metadata.jsonl').read_text()
    if not limit:
        with pytest.raises(OSError): (disk/'ballast').write_bytes(bytes(100_000))
    else: (folder/'metadata.jsonl').write_text(before := before.replace('thing 0', 'thing ' + 'very '*1000 + 'long'))
    said = fails(automode('caption', folder, '--num_beams', '1', **limit))
    assert FULL.search(said) and (folder/'metadata.jsonl').read_text() == before


# --- Ctrl-C

def stopped(args, until, number=signal.SIGINT, **kwargs):
    "Start the command, wait until `until`, send a signal; returns stderr and the exit code"
    process = subprocess.Popen([str(COMMAND), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)
    for _ in range(3000):
        if until() or process.poll() is not None: break
        time.sleep(.1)
    process.send_signal(number)
    return process.communicate(timeout=120)[1], process.returncode

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=['ctrl-c', 'terminate'])
def test_ctrl_c_in_training_keeps_a_checkpoint_and_says_how_to_resume(tmp_path, number):
    args = 'train', captioned(tmp_path/'images'), '--out', tmp_path/'run', '--max_train_steps', '100000', '--batch_size', '1', '--rank', '2'
    said, code = stopped(args, (tmp_path/'run'/'metrics.jsonl').exists, number)
    assert code == 130 and 'Traceback' not in said and 'run the same again to resume' in said
    kept = sorted((tmp_path/'run'/'checkpoints').iterdir())
    assert len(kept) == 1 and kept[0].name in {f'step-{int(o):06d}' for o in re.findall(r'step (\d+)', said)}
    rows = lambda: (tmp_path/'run'/'metrics.jsonl').read_text().splitlines()
    before = len(rows())
    said, code = stopped(args, lambda: len(rows()) > before)
    assert code == 130 and not list((tmp_path/'run').glob('*.safetensors'))
    steps = [json.loads(o)['step'] for o in rows()]
    assert steps == sorted(set(steps)) and sorted((tmp_path/'run'/'checkpoints').iterdir())[-1].name > kept[0].name
    whole(tmp_path/'run')

def test_ctrl_c_in_generating_keeps_the_images(tmp_path):
    args = 'generate', '--prompt', 'a picture of fish', '--num_images', '500', '--batch_size', '1', '--num_inference_steps', '2', '--out', tmp_path/'pics'
    said, code = stopped(args, lambda: len(list(tmp_path.glob('pics/*.png'))) > 2)
    assert code == 130 and 'the images generated so far are kept' in said and 'Traceback' not in said
    assert 2 < len(list(tmp_path.glob('pics/*.png'))) < 500
    whole(tmp_path/'pics')


# --- all steps

def test_each_step_by_itself(tmp_path):
    images(tmp_path/'holiday', 4, SUBJECT)
    steps = [['caption', 'holiday', '--captioner', 'starter', '--prompt', 'a photography of'],
             ['train', 'holiday', '--base', 'starter', '--out', 'runs/inky', '--max_train_steps', '3', '--batch_size', '2', '--rank', '4', '--alpha', '2',
              '--learning_rate', '1e-3', '--resolution', '64', '--seed', '1', '--save_every_steps', '2'],
             ['generate', '--base', 'starter', '--lora', 'runs/inky/inky.safetensors', '--prompt', 'a picture of fish', '--seed', '0', '--num_images', '2',
              '--num_inference_steps', '3', '--guidance_scale', '4', '--lora_scale', '.8', '--out', 'pics']]
    for args in steps:
        done = automode(*args, cwd=tmp_path)
        assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
    config = json.loads((tmp_path/'runs/inky/config.json').read_text())
    wanted = dict(max_train_steps=3, batch_size=2, rank=4, alpha=2., learning_rate=1e-3, resolution=64, seed=1, save_every_steps=2, name='inky', base='starter')
    assert {k: config[k] for k in wanted} == wanted
    assert sorted(o.name for o in (tmp_path/'runs/inky/checkpoints').iterdir()) == ['step-000002', 'step-000003']
    drawn = sorted((tmp_path/'pics').iterdir())
    assert len(drawn) == 2 and '<lora:inky:0.8>' in Image.open(drawn[0]).info['parameters']
    whole(tmp_path)

def test_run_does_all_steps(tmp_path):
    images(tmp_path/'holiday', 4)
    before = tree(tmp_path/'holiday')
    args = ['run', 'holiday', '--captioner', 'starter', '--base', 'starter', '--out', 'out', '--max_train_steps', '3', '--batch_size', '2']
    done = automode(*args, cwd=tmp_path)
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
    there = tree(tmp_path/'out')
    assert {'dataset/metadata.jsonl', 'run/config.json', 'run/metrics.jsonl', 'run/out.safetensors', 'before_after.png', 'report.html'} <= set(there)
    assert tree(tmp_path/'holiday') == before                               # the images are unchanged
    page = (tmp_path/'out/report.html').read_text()
    assert 'load_lora_weights' in page and not re.findall(r'(?:src|href)="(?!data:)', page)
    whole(tmp_path/'out')

def test_the_seeds_own_command(tmp_path):
    folder, others = images(tmp_path/'rabbit', 4, SUBJECT), images(tmp_path/'others', 3)
    done = automode('dreambooth', '--project_name', 'Dreambooth_rabbit', '--training_model', 'starter', '--regularization_images', others, '--training_images', folder,
                    '--max_training_steps', '3', '--class_word', 'rabbit', '--token', 'tiantian', '--flip_p', '0', '--learning_rate', '1.0e-06',
                    '--save_every_x_steps', '2', '--debug', 'False', cwd=tmp_path)
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
    run = tmp_path/'Dreambooth_rabbit'
    about = read_lora_info(run/'Dreambooth_rabbit.safetensors')
    assert 'tiantian rabbit' in about['ss_tag_frequency'] and about['ss_num_reg_images'] == '3'
    config = json.loads((run/'config.json').read_text())
    assert {k: config[k] for k in ('max_train_steps', 'flip_p', 'seed', 'save_every_steps')} == dict(max_train_steps=3, flip_p=0., seed=23, save_every_steps=2)

def test_the_seeds_own_command_says_what_is_missing(tmp_path):
    fails(automode('dreambooth', '--project_name', 'x', '--training_model', 'starter', cwd=tmp_path), '--training_images', '--token')
