"Builds the package from `settings.ini`; change things there, not here"
import re, shlex, sys
from configparser import ConfigParser
from pathlib import Path

import setuptools
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
from stubs import joined, write_stubs

config = ConfigParser(delimiters=['='])
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
statuses = ['0 - Pre-Planning', '1 - Planning', '2 - Pre-Alpha', '3 - Alpha',
            '4 - Beta', '5 - Production/Stable', '6 - Mature', '7 - Inactive']
py_versions = '3.10 3.11 3.12 3.13 3.14'.split()
lib = cfg['lib_path']

def long_description():
    "README.md, with the addresses of its pictures written out, as they are looked for from a package's page"
    raw = f"{cfg['git_url']}/raw/{cfg['branch']}/"
    return re.sub(r'(!\[[^\]]*\]\()(?!https?:)', r'\1' + raw, Path('README.md').read_text(encoding='utf-8'))

class BuildTyped(build_py):
    "What is built holds a `.pyi` file beside each module whose classes grow by `@patch`"
    def run(self):
        super().run()
        if not self.editable_mode: write_stubs(lib, Path(self.build_lib)/lib)

    def get_outputs(self, include_bytecode=1):
        return super().get_outputs(include_bytecode) + [str(Path(self.build_lib)/lib/f'{o}.pyi') for o in joined(lib)]

extras = {k.removesuffix('_requirements'): shlex.split(v) for k, v in cfg.items() if k.endswith('_requirements')}

setuptools.setup(
    name=cfg['lib_name'],
    **{o: cfg[o] for o in 'version description keywords author'.split()},
    license='Apache-2.0',
    license_files=['LICENSE'],
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl']},
    classifiers=['Development Status :: ' + statuses[int(cfg['status'])],
                 'Intended Audience :: ' + cfg['audience'],
                 'Natural Language :: ' + cfg['language']] +
                ['Programming Language :: Python :: ' + o for o in py_versions[py_versions.index(cfg['min_python']):]],
    python_requires='>=' + cfg['min_python'],
    packages=setuptools.find_packages(include=[lib, lib + '.*']),
    package_data={lib: ['data/**/*', 'py.typed']},
    cmdclass={'build_py': BuildTyped},
    install_requires=shlex.split(cfg['requirements']),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{lib}={lib}._modidx:d']},
    long_description=long_description(),
    long_description_content_type='text/markdown',
    zip_safe=False,
)
