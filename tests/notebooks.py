#!/usr/bin/env python
"""Keep what the notebooks show, and the README, in step with their code.

    python tests/notebooks.py execute nbs/data/00_images.ipynb ...   run notebooks in place, keep and stamp their outputs
    python tests/notebooks.py check                             name what is missing, stale, too large or not fit to publish
    python tests/notebooks.py readme                            write README.md from nbs/index.ipynb
"""
import argparse, base64, hashlib, json, os, re, sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NBS, IMAGES = ROOT/'nbs', ROOT/'nbs'/'images'
STAMP = 'outputs_of'  # the notebook metadata key that says which code the stored outputs belong to
MAX_BYTES = 300_000
EXECUTE = 'python tests/notebooks.py execute'


def read(path): return nbformat.read(path, as_version=4)

def code_cells(nb): return [cell for cell in nb.cells if cell.cell_type == 'code']

def notebooks():
    "Every notebook of the project, in order"
    return [o for o in sorted(NBS.rglob('*.ipynb')) if not any(p[0] in '_.' for p in o.relative_to(NBS).parts)]

def name(path): return Path(path).relative_to(ROOT).as_posix()

def directives(cell):
    "The `#| key: value` lines at the top of `cell`, as a dict"
    lines = []
    for line in cell.source.splitlines():
        if line.strip() and not line.startswith('#'): break
        if match := re.match(r'#\s*\|\s*(\S+)\s*(.*)', line): lines.append(match.groups())
    return {key.rstrip(':'): value.strip() for key, value in lines}


# --- execute

def stamp(nb):
    "What the stored outputs belong to: the code of all cells, and how many of them show something"
    code = json.dumps([cell.source.strip() for cell in code_cells(nb)])
    return {'code': hashlib.sha256(code.encode()).hexdigest()[:16], 'shown': sum(bool(o.outputs) for o in code_cells(nb))}

def is_skipped(cell, flags=()):
    "Is `cell` one that the tests leave out as well? It is not run and keeps the outputs that it has"
    from nbdev.config import get_config
    found = directives(cell)
    if 'nbdev_export(' in cell.source or found.get('eval', '').lower() == 'false': return True
    return bool(found.keys() & (set(get_config().tst_flags.split()) - set(flags)))

def tidy_outputs(cell):
    "Drop what a page cannot show (live widgets), what it has already (a picture as JPEG too) and what a terminal would have overwritten (progress)"
    kept = []
    for output in cell.get('outputs', []):
        data = output.get('data', {})
        if 'image/png' in data: data.pop('image/jpeg', None)
        if data.pop('application/vnd.jupyter.widget-view+json', None) and 'text/html' not in data: continue
        if 'text' in output:
            output.text = '\n'.join(re.sub(r'\x1b\[[0-9;]*[A-Za-z]', '', line.rstrip('\r').split('\r')[-1])
                                    for line in output.text.split('\n'))
            if not output.text.strip(): continue
        kept.append(output)
    cell.outputs = kept

def execute(path, flags=()):
    "Run the notebook at `path` in place, from top to bottom, as the tests do; keep, tidy and stamp what it shows"
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbdev.clean import nbdev_clean
    path = Path(path).resolve()
    nb = read(path)
    for cell in code_cells(nb):
        if is_skipped(cell, flags): cell.metadata['tags'] = ['skip-execution']
    client = NotebookClient(nb, timeout=None, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}},
                            store_widget_state=False, coalesce_streams=True, record_timing=False,
                            extra_arguments=['--log-level=ERROR'])
    try: client.execute(env=os.environ | {'IN_TEST': '1'})  # nobody is there to look at widgets
    except CellExecutionError as e: sys.exit(f'{name(path)} stays as it was:\n{e}')
    for cell in code_cells(nb): tidy_outputs(cell)
    nb.metadata[STAMP] = stamp(nb)
    nb.metadata.pop('widgets', None)
    beside = path.with_name(f'_{path.name}.part')
    nbformat.write(nb, beside)
    beside.replace(path)
    nbdev_clean.__wrapped__(fname=str(path))


# --- check

def texts(output):
    "Every text that `output` shows, without the pictures inside of it"
    data = output.get('data', {})
    found = [output.get('text', '')] + [v for k, v in data.items() if k.startswith('text') or 'svg' in k or 'json' in k]
    return [re.sub(r'base64,[\w+/=\s]+', '', o if isinstance(o, str) else json.dumps(o)) for o in found]

def machine_paths(text):
    "Paths in `text` that only exist on the machine where the notebook ran"
    own = '|'.join(re.escape(str(o)) for o in (ROOT, sys.prefix))
    usual = r'/(?:home|root|Users|tmp|var/folders)/[\w.-]+|[A-Z]:\\Users\\\w+'
    return re.findall(rf'(?<![\w./:~-])(?:{own}|{usual})', text)

def problems(path):
    "What is wrong with the stored form of the notebook at `path`, a sentence each"
    nb, found = read(path), []
    have, want = nb.metadata.get(STAMP), stamp(nb)
    if not have: found.append('was never run in place')
    elif have['code'] != want['code']: found.append('has outputs of other code than it holds now')
    elif have['shown'] != want['shown']: found.append(f"shows {want['shown']} outputs, and had {have['shown']} when it ran")
    if (size := Path(path).stat().st_size) > MAX_BYTES: found.append(f'is {size//1000} kB; {MAX_BYTES//1000} is the most')
    for n, cell in enumerate(nb.cells):
        for output in cell.get('outputs', []):
            if output.output_type == 'error': found.append(f'shows an error in cell {n}: {output.ename}')
            for place in {o for text in texts(output) for o in machine_paths(text)}:
                found.append(f'shows a path of this machine in cell {n}: {place}')
    return found

def check(paths=None):
    "One line for each problem of the notebooks at `paths` (all of them by default) and of the README"
    rows = [f'{name(path)} {problem}' for path in paths or notebooks() for problem in problems(path)]
    return rows + [f'{name(path)} is not what `python tests/notebooks.py readme` writes' for path in stale_readme()]


# --- readme

def relink(text):
    "Make addresses beside the notebook ones beside the README"
    def fix(match):
        head, target = match.groups()
        return head + (target if re.match(r'[\w+.-]+:|[#/]', target) else os.path.normpath(f'nbs/{target}'))
    return re.sub(r'(\]\(|src="|href=")([^)"\s]+)', fix, text)

def fence(text, language=''):
    "`text` as a block of code"
    return f'```{language}\n{text.rstrip()}\n```'

def source_block(cell):
    "The code of `cell` without its directives; shell lines without their `!`"
    lines = re.sub(r'\A(\s*#\s*\|.*\n?)+', '', cell.source).strip().splitlines()
    if not lines: return ''
    if lines[0].startswith('%%bash'): return fence('\n'.join(lines[1:]), 'bash')
    if all(line.startswith('!') for line in lines): return fence('\n'.join(line[1:] for line in lines), 'bash')
    return fence('\n'.join(lines), 'python')

def output_block(output, stem, images):
    "What `output` shows; a picture goes to `images` under a name that starts with `stem`"
    if output.output_type == 'stream': return fence(output.text) if output.name == 'stdout' else ''
    data = output.get('data', {})
    for mime, suffix in {'image/png': 'png', 'image/jpeg': 'jpg'}.items():
        if mime not in data: continue
        path = IMAGES/f'{stem}.{suffix}'
        images[path] = base64.b64decode(data[mime])
        return f'![What the cell above draws]({name(path)})'
    if 'text/markdown' in data: return relink(data['text/markdown'])
    return '' if 'text/html' in data or 'text/plain' not in data else fence(data['text/plain'])

def cell_blocks(cell, n, images):
    "The blocks of Markdown that `cell`, the one at `n`, becomes"
    if cell.cell_type == 'markdown': return [relink(cell.source.strip())]
    found = directives(cell)
    if cell.cell_type != 'code' or found.keys() & {'hide', 'default_exp'} or found.get('include') == 'false': return []
    shown = [output_block(o, f'index_{n:02d}_{i}', images) for i, o in enumerate(cell.outputs)]
    return [source_block(cell)] * (found.get('echo') != 'false') + shown * (found.get('output') != 'false')

def readme_files():
    "README.md and its pictures, as a dict of path to bytes; empty where there is no `index.ipynb` yet"
    if not (NBS/'index.ipynb').exists(): return {}
    cells, images = read(NBS/'index.ipynb').cells, {}
    if cells and cells[0].cell_type == 'markdown':  # the title cell: without the front matter, which nbdev reads as `- key: value`
        cells[0].source = '\n'.join(o for o in cells[0].source.splitlines() if not re.match(r'- [\w-]+: ', o))
    blocks = [block for n, cell in enumerate(cells) for block in cell_blocks(cell, n, images) if block]
    mark = '<!-- Written from nbs/index.ipynb by `python tests/notebooks.py readme`; change the notebook -->'
    return {ROOT/'README.md': '\n\n'.join([mark] + blocks).encode() + b'\n', **images}

def stale_readme():
    "The files of the README that are missing, out of step, or left over"
    files = readme_files()
    changed = [path for path, data in files.items() if not path.exists() or path.read_bytes() != data]
    return changed + [path for path in sorted(IMAGES.glob('index_*')) if path not in files]

def readme():
    "Write README.md and its pictures, and remove the pictures that it had before"
    files = readme_files()
    for path in stale_readme(): path.unlink(missing_ok=True)
    for path, data in files.items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists(): path.write_bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('execute', help='run notebooks in place')
    run.add_argument('paths', nargs='+', type=Path, metavar='NB')
    run.add_argument('--flags', default='', help='test flags to run that are normally left out, e.g. "slow"')
    commands.add_parser('check', help='name the notebooks that are not fit to publish')
    commands.add_parser('readme', help='write README.md from nbs/index.ipynb')
    args = parser.parse_args()
    paths = [o.resolve() for o in getattr(args, 'paths', [])]
    os.chdir(ROOT)  # nbdev looks for its settings from here
    os.environ |= {'TQDM_DISABLE': '1', 'HF_HUB_OFFLINE': '1'}  # stored outputs hold no progress bars; nothing is fetched
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT)] + [o for o in [os.environ.get('PYTHONPATH')] if o])
    if args.command == 'readme': return readme()
    for path in paths:
        print(f'running {name(path)}', flush=True)
        execute(path, args.flags.split())
    rows = [f'{name(p)} {o}' for p in paths for o in problems(p)] if paths else check()
    if rows: sys.exit('\n'.join(rows))


if __name__ == '__main__': main()
