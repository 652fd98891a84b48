import pytest

from vit_jax.config.fields import default_config
from vit_jax.training.loop import train


@pytest.fixture(scope='package')
def trained(tmp_path_factory):
  """Return the workdir of a small run that has everything."""
  c = default_config()
  c.update(
    dict(
      model='ViT-Ti/4',
      num_layers=2,
      hidden_dim=32,
      mlp_dim=64,
      num_heads=2,
      image_size=16,
      dtype='float32',
      dataset='digits',
      data_dir=str(tmp_path_factory.mktemp('digits')),
      preset='bit',
      batch_size=32,
      total_steps=40,
      lr=3e-3,
      warmup_steps=5,
      log_every=10,
      eval_every=20,
      save_every=20,
      num_threads=2,
    )
  )
  workdir = tmp_path_factory.mktemp('runs') / 'a <small> run'
  train(c, workdir)
  return workdir
