"""A script as a person writes it; `tests/test_types.py` lets mypy read it with all its rules, and nobody runs it"""
from pathlib import Path

from PIL import Image

from automode.caption import caption_folder
from automode.data.dataset import Dataset
from automode.generate import compare, generate, load_pipeline
from automode.run import Run
from automode.train import train
from automode.widgets.playground import playground
from automode.widgets.review import review
from automode.widgets.run import watch

dataset = caption_folder('holiday', captioner='starter', prompt='a picture of', out='dataset')
first: Image.Image = dataset.image(dataset.trainable()[0])
grid: Image.Image = dataset.grid(6)
done: dict[str, int] = dataset.counts
names: list[str] = [row['file_name'] for row in dataset.trainable()]
again = Dataset.read('dataset')
run = train(again, base='starter', out='outlined', max_train_steps=300, batch_size=8, learning_rate=1e-3, token='tiantian')
lora: Path = run.lora
step, why = run.best()
losses: dict[int, float] = run.validation()
run.plot(smooth=9)
stopped: bool = run.stop()
images: list[Image.Image] = generate(['a fox', 'a hare'], base='starter', lora=lora, seed=1, num_images=2, resolution=(64, 96))
sheet: Image.Image = compare('a fox', pipeline=load_pipeline('starter', lora))
review('dataset')
watch(Run('outlined'))
playground('outlined')
