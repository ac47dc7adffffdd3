"""What holds for all tests: no network, one thread a process (on two cores faster than two), no windows"""
import os

os.environ |= {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'TOKENIZERS_PARALLELISM': 'false'}
