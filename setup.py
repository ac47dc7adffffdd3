"Builds the package from `settings.ini`; change things there, not here"
import re, shlex
from configparser import ConfigParser
from pathlib import Path

import setuptools

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
    package_data={lib: ['data/**/*']},
    install_requires=shlex.split(cfg['requirements']),
    extras_require={o: shlex.split(cfg[f'{o}_requirements']) for o in ('dev', 'optim')},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{lib}={lib}._modidx:d']},
    long_description=long_description(),
    long_description_content_type='text/markdown',
    zip_safe=False,
)
