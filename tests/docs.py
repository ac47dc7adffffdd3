#!/usr/bin/env python
"""Build the documentation site from the notebooks, with what pip can install.

    python tests/docs.py [FOLDER]     the site, ready for any web server; `_docs` when no folder is given

nbdev makes pages of the notebooks and smalldocs makes a site of the pages, as quarto does for `nbdev_docs`. What is done
between the two gives pages the addresses that nbdev's links have, and sends links to other files of the project to GitHub.
"""
import argparse, html, json, os, posixpath, re, shutil, sys, tempfile, warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ |= {'HF_HUB_OFFLINE': '1', 'TQDM_DISABLE': '1'}

import yaml
from nbdev import serve
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, _get_exps
from nbdev.process import Processor
from nbdev.processors import FilterDefaults


# --- from notebooks to pages

def site_address(config):
    "Where nbdev's links expect the site"
    return f"{config['doc_host']}{config['doc_baseurl']}/"

class OwnNames(Processor):
    "Where several modules have a name, the page's own module is meant, and a command only when there is nothing else"
    def begin(self):
        config, names = get_config(), NbdevLookup().syms
        own = next((c.directives_['default_exp'][0] for c in self.nb.cells if 'default_exp' in (c.directives_ or {})), '')
        modules = [o.relative_to(ROOT/'automode').with_suffix('').as_posix() for o in (ROOT/'automode').rglob('[!_]*.py')]
        for module in sorted(modules, key=lambda o: (o == own.replace('.', '/'), o != 'cli/commands', o)):
            file = f'automode/{module}.py'
            place, source = f"{site_address(config)}{module}.html", f"{config['git_url']}/blob/{config['branch']}/{file}"
            names.update({o: (f'{place}#{o.lower()}', file, source) for o in _get_exps(file)})
        for name in [o for o in names if re.search(r'(^|\.)_[^_.]\w*$', o)]: del names[name]      # these have no place on a page

class Pages(FilterDefaults):
    "nbdev's steps from a notebook to a page"
    def base_procs(self): return [OwnNames, *super().base_procs()]

def make_pages(top):
    "The pages of the project at `top`, in its `_proc`"
    os.chdir(top)                                                           # where nbdev looks for settings.ini
    serve.FilterDefaults = Pages
    warnings.filterwarnings('ignore', 'Found cells containing imports')     # of those, the ones that need more than imports are hidden
    return serve.proc_nbs(n_workers=0)


# --- addresses

def output_name(path):
    "The address that nbdev gives the page at `path`: without the number of its notebook"
    return re.sub(r'^\d+[a-zA-Z0-9]*_', '', path.name)

def expand(contents, pages):
    "The entries of a menu, with every pattern replaced by the `pages` that it stands for"
    if isinstance(contents, str): contents = [contents]
    found = []
    for o in contents:
        if isinstance(o, dict) and 'contents' in o: found.append(o | dict(contents=expand(o['contents'], pages)))
        elif isinstance(o, dict): found.append(o | dict(href=pages.get(o['href'], o['href'])))
        elif '*' in o: found += [pages[k] for k in sorted(pages) if Path(k).match(o) and k.count('/') == o.count('/')]
        else: found.append(pages.get(o, o))
    return [o for o in found if not isinstance(o, dict) or o.get('contents', True)]

def relink(text, page, pages, config):
    "Send the links of Markdown to where the pages will be"
    def fix(match):
        target, part = match[1], match[2] or ''
        if re.match(r'[\w+.-]+:|/', target): return match[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        if there in pages: return f'](/{pages[there]}{part})'
        return f"]({config['git_url']}/blob/{config['branch']}/{there[3:]}{part})" if there.startswith('../') else match[0]
    modules = {posixpath.splitext(o)[0].replace('/', '.'): o for o in pages.values()}
    def named(match): return f'[{match[0]}](/{modules[match[1]]})' if match[1] in modules else match[0]
    text = re.sub(r'(?<![\[`])`automode\.([\w.]+)`(?!`)', named, text.replace(site_address(config), '/'))
    return re.sub(r'\]\(([^)\s#]+)(#[^)\s]*)?\)', fix, text)

def relink_page(path, page, pages, config):
    "Send the links of one page to where the pages will be, and take out what only quarto reads"
    if path.suffix != '.ipynb': return path.write_text(relink(path.read_text(), page, pages, config))
    nb = json.loads(path.read_text())
    for cell in nb['cells']:
        if cell['cell_type'] == 'markdown': cell['source'] = relink(''.join(cell['source']), page, pages, config)
        if cell['cell_type'] == 'raw': cell['source'] = re.sub(r'^output-file: .*\n', '', ''.join(cell['source']), flags=re.M)
        for data in (o.get('data', {}) for o in cell.get('outputs', [])):
            if 'text/markdown' in data: data['text/markdown'] = relink(''.join(data['text/markdown']), page, pages, config)
    path.write_text(json.dumps(nb))

def settle(proc):
    "Give every page in `proc` its address, and the links that lead there"
    files = sorted(o for o in proc.rglob('*') if o.suffix in ('.ipynb', '.qmd', '.md'))
    pages = {(o.relative_to(proc)).as_posix(): o.with_name(output_name(o)).relative_to(proc).as_posix() for o in files}
    for name, address in pages.items():
        relink_page(proc/name, name, pages, get_config())
        (proc/name).rename(proc/address)
    config = yaml.safe_load((proc/'_quarto.yml').read_text())
    sidebar, navbar = config['website']['sidebar'], config['website']['navbar']
    sidebar['contents'], navbar['left'] = expand(sidebar['contents'], pages), expand(navbar['left'], pages)
    (proc/'_quarto.yml').write_text(yaml.safe_dump(config, sort_keys=False))


# --- the site

def as_mathml(match):
    "A formula in the form that browsers read by themselves"
    from latex2mathml.converter import convert
    return convert(html.unescape(match[2]), display='inline' if match[1] == 'inline' else 'block')

def ask_nobody(site):
    "Let the pages in the folder `site` do without fonts and scripts from elsewhere"
    for o in site.glob('site_libs/themes/*.css'): o.write_text(re.sub(r'@import url\(https?:[^)]*\);?', '', o.read_text()))
    for o in site.rglob('*.html'):
        text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', as_mathml, o.read_text(), flags=re.S)
        o.write_text(re.sub(r'<(link|script)\b[^>]*"https://cdn\.jsdelivr\.net/npm/katex[^>]*>(</script>)?', '', text))

def build(out):
    "Write the site to the folder `out`; what is wrong with it, a sentence each"
    from smalldocs.site import build as build_site
    with tempfile.TemporaryDirectory() as top:
        shutil.copy(ROOT/'settings.ini', top)
        for o in ('nbs', 'tests', 'automode'): (Path(top)/o).symlink_to(ROOT/o)
        before = os.getcwd()
        try:
            proc = make_pages(top)
            settle(proc)
            site = build_site(proc, quiet=True)
        finally: os.chdir(before)
        ask_nobody(site.out)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(site.out, out)
        return site.warnings

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', nargs='?', type=Path, default=ROOT/'_docs', metavar='FOLDER', help='where the site goes')
    out = parser.parse_args().out.resolve()
    if out.exists() and not (out/'site_libs').is_dir() and any(out.iterdir()): sys.exit(f"'{out}' holds something else; give another folder")
    if problems := build(out): sys.exit('\n'.join(problems))
    print(f'open {out}/index.html, or: python -m http.server -d {out}')


if __name__ == '__main__': main()
