"""Advice on configs that do not fit."""

from vit_jax.config.fields import default_config
from vit_jax.cost.advice import advise

GIB = 2**30


def config(**fields):
  c = default_config()
  c.update(fields)
  return c


def test_advice_names_flags():
  c = config(remat='none', scan=False, batch_size=4096, accumulate=1, moment_dtype='float32')
  advice = advise(c, (256, 1), 7 * GIB, 16 * GIB)
  assert [line.split(':')[0] for line in advice] == [
    '--config.parallel=mesh --config.mesh=64,4',
    '--config.remat=dots',
    '--config.remat=full',
    '--config.scan=True',
    '--config.accumulate=2',
    '--config.moment_dtype=bfloat16',
    '--config.batch_size=2048, which is another recipe',
    'a larger slice',
  ]
  assert 'take 1.75 instead of 7.00 GiB' in advice[0]
  assert 'passes of 8 instead of 16 images on each device' in advice[4]


def test_advice_leaves_out_what_the_config_has():
  c = config(remat='full', scan=True, batch_size=4096, accumulate=16, moment_dtype='bfloat16')
  assert advise(c, (2, 128), GIB // 10, 16 * GIB) == [
    '--config.batch_size=2048, which is another recipe',
    'a larger slice',
  ]
