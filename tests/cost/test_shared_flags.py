"""Flags that the two commands share."""

import pytest

from vit_jax.cost.shared_flags import define_flags, parse_optional_run, parse_run
from vit_jax.errors import InputError


def test_flags_set_fields():
  values = define_flags('help')
  argv = ['aot', '--config=configs/vit_b16.py:jft', '--config.mesh=4,2', '--config.scan=True']
  c = parse_run(values, [*argv, '--num_images=7', '--mfu=.5'])
  assert (c.dataset, c.mesh, c.scan) == ('jft_300m', (4, 2), True)
  assert (values.num_images, values.mfu, values.json) == (7, 0.5, False)


def test_a_config_may_be_optional():
  values = define_flags('help')
  assert parse_optional_run(values, ['cost', '--json']) is None and values.json
  c = parse_optional_run(define_flags('help'), ['cost', '--config=configs/vit_b16.py'])
  assert c is not None and c.model == 'ViT-B/16'


@pytest.mark.parametrize('mfu', ['0', '1.5', 'nan'])
def test_mfu_is_a_fraction(mfu):
  with pytest.raises(InputError) as e:
    parse_optional_run(define_flags('help'), ['cost', f'--mfu={mfu}'])
  assert str(e.value) == (
    f'--mfu={mfu} is out of range. Give a fraction of the peak rate, more than 0 and at most 1, '
    'such as .4.'
  )
