"""What holds for all tests: no network, one thread a process (on two cores faster than two), no windows"""
import os, signal

os.environ |= {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'TOKENIZERS_PARALLELISM': 'false'}
signal.signal(signal.SIGINT, signal.default_int_handler)   # a shell that starts the tests in the background has Ctrl-C ignored, in all that they start too

from browsing import browser, lab  # noqa: E402,F401  fixtures: a JupyterLab and a browser, started when a test asks for them
