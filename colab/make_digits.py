"""Train colab/digits.npz: a tiny ViT for the digits 0 to 4, which the notebook uses when offline.

  python colab/make_digits.py    # takes a minute on two CPU cores

The notebook fine-tunes it on all ten digits. It is trained on the training split only.
"""

import pathlib
import tempfile

from ml_collections import ConfigDict

from vit_jax import create_model, load_params, save_params
from vit_jax.config.fields import default_config, model_overrides
from vit_jax.data.open_source import open_source
from vit_jax.training.loop import train

NUM_CLASSES = 5
OUT = pathlib.Path(__file__).with_name('digits.npz')


def write_folder(folder: pathlib.Path) -> None:
  """Write {train,test}/<digit>/<index>.png."""
  for split in ('train', 'test'):
    source = open_source('digits', split, str(folder))
    for index in range(len(source)):
      example = source[index]
      if example['label'] < NUM_CLASSES:
        directory = folder / split / str(example['label'])
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f'{index}.png').write_bytes(example['image'])


def config(folder: pathlib.Path) -> ConfigDict:
  """Return the config that trains on the folder."""
  c = default_config()
  c.model, c.image_size = 'ViT-Ti/4', 16
  c.hidden_dim, c.mlp_dim, c.num_heads, c.num_layers = 64, 128, 4, 2
  c.dataset, c.preset, c.resize_size, c.flip = str(folder), 'bit', 17, 'no'
  c.dtype, c.dropout = 'float32', 0.1
  c.batch_size, c.num_epochs = 32, 40.0
  c.lr, c.warmup_steps, c.weight_decay = 1e-3, 100, 0.1
  c.log_every, c.eval_every, c.save_every = 100, 300, 0
  return c


def main() -> None:
  """Train, and write the parameters."""
  with tempfile.TemporaryDirectory() as directory:
    folder = pathlib.Path(directory)
    write_folder(folder)
    c = config(folder)
    train(c, folder / 'run')
    model = create_model(
      c.model, num_classes=NUM_CLASSES, image_size=c.image_size, **model_overrides(c)
    )
    save_params(load_params(folder / 'run', model), OUT)
  print(f'{OUT}: {OUT.stat().st_size:,} bytes')


if __name__ == '__main__':
  main()
