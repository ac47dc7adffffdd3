"""Settings of all tests: no network, one thread per process (on two cores faster than two), no windows; and the order in which two workers take them"""
import os, signal

import pytest

os.environ |= {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'TOKENIZERS_PARALLELISM': 'false'}
signal.signal(signal.SIGINT, signal.default_int_handler)   # a shell that starts the tests in the background has Ctrl-C ignored, in all that they start too

from browsing import browser, lab  # noqa: E402,F401  fixtures: a JupyterLab and a browser, started when a test asks for them

LONG = '''test_tutorial test_playground test_run_widget test_review test_train test_site test_cli test_push test_caption
    test_family test_package test_types test_reading test_captioners test_convert test_fuzz'''.split()
LONG_NOTEBOOKS = '''auto train starter/03_denoiser playground tutorials/03_subject_or_style forecast/01_estimate lora/02_files
    tutorials/01_first_lora index lora/04_tools generate tutorials/02_the_seed starter/01_captioner training/05_fast'''.split()
IN_JUPYTERLAB = 'test_tutorial', 'test_playground', 'test_run_widget', 'test_review'

def test_file(nodeid): return nodeid.split('::')[0].rpartition('/')[2].removesuffix('.py')

def unit(nodeid):
    "Name of the tests that one worker runs together: those of a file, whose fixtures are costly; all that need a JupyterLab; a notebook by itself"
    if '::test_runs[' in nodeid: return nodeid
    return 'browser' if test_file(nodeid) in IN_JUPYTERLAB else test_file(nodeid)

def start(nodeid):
    "Place of a test in the order of starts: long files, long notebooks, other notebooks, short files"
    names = [f'test_runs[nbs/{o}.ipynb]' for o in LONG_NOTEBOOKS]
    if '::test_runs[' in nodeid: return 1, names.index(name) if (name := nodeid.partition('::')[2]) in names else len(names)
    return (0, LONG.index(test_file(nodeid))) if test_file(nodeid) in LONG else (2, 0)

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items): items.sort(key=lambda o: start(o.nodeid))

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "Hand out the tests by `unit`, in their order; marks do not reach the scheduler (the xdist_group of xdist 3.8 has no effect with pytest 9.2)"
    from xdist.scheduler import LoadScopeScheduling
    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid): return unit(nodeid)
    config.option.loadscopereorder = False
    return ByUnit(config, log)
