import json

import jax
import pytest

from tests.training.test_loop import config, data_dir  # noqa: F401 (a fixture)
from vit_jax.config import dtype as module
from vit_jax.config.dtype import fastest_dtype, settle_dtype
from vit_jax.config.fields import default_config
from vit_jax.config.run import keep_fields
from vit_jax.cost.estimate import estimate_run
from vit_jax.training.loop import train


def auto():
  c = default_config()
  c.dtype = 'auto'
  return c


@pytest.mark.parametrize(
  'platform, unit, version, dtype',
  [
    ('tpu', 'AVX2', (0, 12), 'bfloat16'),
    ('gpu', 'AVX2', (0, 12), 'bfloat16'),
    ('cpu', 'AMX', (0, 12, 0, 1), 'bfloat16'),
    ('cpu', 'AMX', (0, 10, 2), 'float32'),
    ('cpu', 'AVX-512 BF16', (0, 12), 'float32'),
    ('cpu', 'AVX2', (0, 12), 'float32'),
    ('cpu', 'arm64', (0, 12), 'float32'),
  ],
)
def test_the_fastest_type(platform, unit, version, dtype):
  assert fastest_dtype(platform, unit, version)[0] == dtype


def test_old_gpus_have_no_bfloat16():
  kind = 'Tesla V100-SXM2-16GB'
  assert fastest_dtype('gpu', kind=kind) == ('float32', f'{kind} has no bfloat16')
  assert fastest_dtype('gpu', kind='NVIDIA H100 80GB HBM3')[0] == 'bfloat16'
  c = auto()
  settle_dtype(c, 'gpu', kind=kind)
  assert c.dtype == 'float32'


def test_units_that_nobody_has_measured():
  assert fastest_dtype('cpu', 'arm64', (0, 12, 0)) == (
    'float32',
    'with JAX 0.12.0, bfloat16 has not been measured on this CPU (arm64)',
  )


def test_a_type_that_is_given_is_left_alone():
  c = default_config()
  assert settle_dtype(c, 'cpu', {'dtype': 'float32'}) is None and c.dtype == 'bfloat16'


def test_the_log_says_what_was_chosen_and_why(monkeypatch):
  c = auto()
  assert settle_dtype(c, 'tpu') == (
    "config.dtype='auto' is bfloat16 here: the matrix units of accelerators are fastest in it."
  )
  monkeypatch.setattr(module, 'cpu_unit', lambda: 'AVX2')
  c = auto()
  version = '.'.join(map(str, jax.__version_info__))
  assert settle_dtype(c, 'cpu') == (
    f"config.dtype='auto' is float32 here: with JAX {version}, this CPU (AVX2) is fastest in it."
  )
  assert c.dtype == 'float32'


def test_the_recorded_type_is_kept_on_another_machine():
  c = auto()
  assert settle_dtype(c, 'tpu', {'dtype': 'float32'}) == (
    "config.dtype='auto' is float32 here: as recorded by the run being resumed."
  )
  assert c.dtype == 'float32'


def test_a_resumed_run_keeps_its_type_even_if_auto_is_given_again():
  c, recorded = auto(), default_config().to_dict() | {'dtype': 'float32'}
  assert keep_fields(c, recorded, {'dtype'}) == [
    "config.dtype='auto' is float32 here: as recorded by the run being resumed."
  ]
  assert c.dtype == 'float32'


def test_the_cost_is_that_on_accelerators():
  c = auto()
  c.model, c.num_layers, c.image_size, c.dataset = 'ViT-Ti/16', 1, 32, 'cifar10'
  assert estimate_run(c, ['TPU v3'], 0.4, num_images=1000).dtype == 'bfloat16'


@pytest.mark.slow
def test_a_run_records_its_type_and_keeps_it_on_another_machine(data_dir, tmp_path, monkeypatch):  # noqa: F811
  monkeypatch.setattr(module, 'cpu_unit', lambda: 'AVX2')
  train(config(data_dir, dtype='auto', total_steps=2), tmp_path)
  read = lambda: json.loads((tmp_path / 'config.json').read_text())['dtype']
  assert read() == 'float32'
  assert "config.dtype='auto' is float32 here" in (tmp_path / 'log.txt').read_text()
  monkeypatch.setattr(module, 'fastest_dtype', lambda platform, kind: ('bfloat16', 'a test'))
  train(config(data_dir, dtype='auto', total_steps=4), tmp_path)
  assert read() == 'float32'
  assert 'is float32 here: as recorded by the run' in (tmp_path / 'log.txt').read_text()
