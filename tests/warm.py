#!/usr/bin/env python
"""Run notebooks as `nbdev_test` does, each in a process of its own that has the large libraries imported already.

Reads the path of a notebook and of a log file from each line of its input, and answers with the exit status. Importing torch, diffusers,
transformers and peft takes longer than half of the notebooks; here it is done once, and each notebook gets a fork of this process.
"""
import atexit, os, sys, traceback
from pathlib import Path

LIBRARIES = '''torch torch.utils.checkpoint matplotlib.pyplot safetensors.torch accelerate datasets peft ipywidgets anywidget psutil
    diffusers.models.autoencoders.autoencoder_kl diffusers.models.unets.unet_2d_condition diffusers.optimization diffusers.training_utils
    diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl
    diffusers.loaders.single_file transformers.models.clip.modeling_clip transformers.models.clip.tokenization_clip
    transformers.models.blip.modeling_blip transformers.models.auto.modeling_auto transformers.models.auto.processing_auto
    fastcore.test nbdev.test'''.split()

def run(path, log):
    "Test one notebook; never returns"
    status = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for o in (1, 2): os.dup2(handle, o)
        from nbdev.config import get_config
        from nbdev.test import test_nb
        passed, _ = test_nb(Path(path), skip_flags=get_config().tst_flags.split(), do_print=True, basepath=get_config().config_path)
        atexit._run_exitfuncs()
        status = 0 if passed else 1
    except BaseException: traceback.print_exc()
    finally:
        for o in (sys.stdout, sys.stderr): o.flush()
        os._exit(status)

def main():
    import importlib
    for o in LIBRARIES: importlib.import_module(o)
    for line in sys.stdin:
        child = os.fork() or run(*line.rstrip('\n').split('\t'))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

if __name__ == '__main__': main()
