"""A new option is one entry: it appears in the check, `--help`, completion, the estimate, the documentation, and it trains"""
import runpy

import pytest
import torch

from automode.cli.commands import command_parser, flag_words
from automode.cli.completion import completion_script
from automode.core import Problem
from automode.forecast.estimate import Job, estimate
from automode.forecast.flops import Speed
from automode.lora.adapters import add_adapter
from automode.models.load import load_base
from automode.options import OPTIMIZERS, SETTINGS, Optimizer
from automode.training.config import TrainConfig, choose_learning_rate, fill_in
from automode.training.optim import make_lr_scheduler, make_optimizer


@pytest.fixture
def dummy():
    "An optimizer that is entered for one test"
    yield OPTIMIZERS.add(Optimizer('radam', 'Adam with a warmup of its own', 'torch.optim:RAdam', rate=10., state_bytes=12,
                                   lr_scheduler='constant', allows=dict(lr_scheduler=('constant',))))
    del OPTIMIZERS['radam']

def test_an_optimizer_is_one_entry(dummy, capsys):
    config = TrainConfig(optimizer='R_Adam', max_train_steps=4)
    assert config.optimizer == 'radam'
    with pytest.raises(Problem, match='lr_scheduler linear is not supported with optimizer radam; use constant'):
        TrainConfig(optimizer='radam', lr_scheduler='linear')
    with pytest.raises(Problem, match='did you mean radam'): TrainConfig(optimizer='raddam')
    assert 'radam' in command_parser('train').format_help() and 'radam' in command_parser('run').format_help()
    script = completion_script('bash', {'train': command_parser('train')}, flag_words())
    assert 'radam' in next(o for o in script.splitlines() if "'train --optimizer'" in o)
    base = load_base('starter', 'cpu')
    config = fill_in(config, 10, base)
    assert (config.learning_rate, config.lr_scheduler) == (10 * OPTIMIZERS['adamw'].learning_rate(choose_learning_rate(base.unet.num_parameters())), 'constant')
    add_adapter(base.unet, 4)
    plain, other = (estimate(Job(base.unet, (8, 8), 4, optimizer=o), Speed(1, 1, 1)).memory['optimizer'] for o in ('adamw', 'radam'))
    assert other == plain * 12/8
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([dict(params=[weight], lr=.1)], 'radam')
    assert isinstance(optimizer, torch.optim.RAdam)
    make_lr_scheduler(optimizer, 'constant', max_train_steps=4)

def test_every_registry_is_documented(dummy, capsys):
    runpy.run_path('nbs/reference/options.qmd.py')
    page = capsys.readouterr().out
    for setting, options in SETTINGS.items():
        assert f'## {setting}' in page
        for name, option in options.items(): assert f'`{name}`' in page and option.help in page
    assert 'Adam with a warmup of its own' in page
