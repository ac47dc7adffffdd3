#!/usr/bin/env python
"""Run notebooks and commands, each in a process of its own that has the large libraries imported already.

Importing torch, diffusers, transformers and peft takes longer than most notebooks and commands; here it is done once, and each of them gets a
fork of this process. automode itself is not imported before. `Warm` starts the process and talks to it: a line of JSON asks, a line answers with the exit status.
"""
import atexit, json, os, re, signal, subprocess, sys, tempfile, traceback
from pathlib import Path
from types import SimpleNamespace

STEPS = 12 # Steps of training in the README and the tutorials, in place of as many as their images need

LIBRARIES = '''torch torch.utils.checkpoint matplotlib.pyplot safetensors.torch accelerate datasets peft ipywidgets anywidget psutil
    diffusers.models.autoencoders.autoencoder_kl diffusers.models.unets.unet_2d_condition diffusers.optimization diffusers.training_utils
    diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl
    diffusers.loaders.single_file transformers.models.clip.modeling_clip transformers.models.clip.tokenization_clip
    transformers.models.blip.modeling_blip transformers.models.auto.modeling_auto transformers.models.auto.processing_auto
    fastcore.test nbdev.test'''.split()

def shorten(nb):
    "Train for a few steps only; no test in these notebooks needs more"
    for cell in nb.cells:
        if cell.cell_type == 'code': cell.source = re.sub(r"(\bmax_train_steps=|\bsteps\s+= (?:'[^']*', )?)\d\d+\b", rf'\g<1>{STEPS}', cell.source)

def test_notebook(path):
    "Run one notebook as `nbdev_test` does; its exit status"
    from nbdev.config import get_config
    from nbdev import test as nbdev_test
    if Path(path).name == 'index.ipynb' or Path(path).parent.name == 'tutorials':
        run_all = nbdev_test.CaptureShell.run_all
        nbdev_test.CaptureShell.run_all = lambda self, nb, *args, **kwargs: (shorten(nb), run_all(self, nb, *args, **kwargs))[1]
    passed, _ = nbdev_test.test_nb(Path(path), skip_flags=get_config().tst_flags.split(), do_print=True, basepath=get_config().config_path)
    return 0 if passed else 1

def run_command(args):
    "Run the command `automode`; its exit status"
    from automode.cli.commands import main
    sys.argv = ['automode', *args]
    return main()

def run(asked):
    "Do what is asked in this fork; never returns"
    status = 1
    try:
        signal.alarm(asked.get('seconds', 0))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for o, name in ((1, 'out'), (2, 'err')): os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), o)
        os.environ.update(asked.get('env', {}))
        os.chdir(asked['cwd'])
        code = test_notebook(asked['notebook']) if 'notebook' in asked else run_command(asked['command'])
        atexit._run_exitfuncs()
        status = code
    except SystemExit as e:
        if isinstance(e.code, str): print(e.code, file=sys.stderr)
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException: traceback.print_exc()
    finally:
        for o in (sys.stdout, sys.stderr): o.flush()
        os._exit(status)

class Warm:
    "The process with the libraries, started when it is first asked, and ended with this one"
    process = None

    def ask(self, **asked):
        if self.process is None:
            self.process = subprocess.Popen([sys.executable, __file__], cwd=Path(__file__).parents[1], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            atexit.register(self.process.stdin.close)
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def notebook(self, path, log):
        "Exit status of a notebook, which prints to the file `log`"
        return self.ask(notebook=str(path), cwd=os.getcwd(), out=str(log), err=str(log))

    def command(self, *args, cwd=None, env={}):
        "Run `automode` with `args`; what `subprocess.run` returns"
        with tempfile.TemporaryDirectory() as folder:
            out, err = (Path(folder)/o for o in ('out', 'err'))
            code = self.ask(command=[str(o) for o in args], seconds=300, env=env, cwd=str(cwd or os.getcwd()), out=str(out), err=str(err))
            if code == -signal.SIGALRM: raise TimeoutError(f'automode {args} took longer than five minutes: {out.read_text()}{err.read_text()}')
            return SimpleNamespace(returncode=code, stdout=out.read_text(), stderr=err.read_text())

warm = Warm()

def main():
    import importlib
    for o in LIBRARIES: importlib.import_module(o)
    for line in sys.stdin:
        child = os.fork() or run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

if __name__ == '__main__': main()
