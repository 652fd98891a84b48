import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.parallel import compiler
from vit_jax.parallel.compiler import OPTION_SETS, compiler_options, fastest_set, jit, supported
from vit_jax.parallel.cpu_unit import cpu_unit

UNKNOWN = {'xla_no_such_option': True}


def test_cpus_have_options_and_gpus_in_bfloat16(monkeypatch):
  assert compiler_options('tpu') == compiler_options('tpu', 'bfloat16') == {}
  assert compiler_options('gpu') == {}
  assert compiler_options('gpu', 'bfloat16') == {}
  for generation, options in ((7, {}), (8, OPTION_SETS['cublas'])):
    compiler_options.cache_clear()
    monkeypatch.setattr(compiler, 'nvidia_generation', lambda: generation)  # noqa: B023
    assert compiler_options('gpu', 'bfloat16') == options
  compiler_options.cache_clear()
  assert compiler_options('cpu').items() <= OPTION_SETS[fastest_set(cpu_unit(), 'float32')].items()


@pytest.mark.parametrize(
  'unit, dtype, version, name',
  [
    ('AMX', 'float32', (0, 12, 0, 1), 'onednn'),
    ('AMX', 'bfloat16', (1, 0, 0), 'onednn'),
    ('AMX', 'bfloat16', (0, 10, 2), 'eigen'),
    ('AVX2', 'float32', (0, 12, 0), 'default'),
    ('AVX2', 'bfloat16', (0, 12, 0), 'onednn'),
    ('AVX2', 'bfloat16', (0, 10, 2), 'eigen'),
    ('arm64', 'bfloat16', (0, 12, 0), 'default'),
  ],
)
def test_the_table(unit, dtype, version, name):
  assert fastest_set(unit, dtype, version) == name


def test_options_that_the_compiler_does_not_have_are_left_out():
  known = {'xla_cpu_enable_fast_min_max': True}
  assert supported(known | UNKNOWN) == known


def test_jit_compiles_with_the_options(monkeypatch):
  @functools.partial(jit, static_argnames='power')
  def raised(x, *, power):
    """Return a power."""
    return x**power

  assert raised.__doc__ == 'Return a power.'
  assert raised(jnp.arange(3), power=2).tolist() == [0, 1, 4]
  monkeypatch.setattr(compiler, 'compiler_options', lambda platform: UNKNOWN)
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_option'):
    jit(lambda x: x + 1)(np.zeros(2))


@pytest.mark.parametrize('name', OPTION_SETS)
def test_every_set_computes_the_same(name):
  x, y = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
  product = jax.jit(
    lambda x, y: (x @ y).sum(0), compiler_options=dict(supported(OPTION_SETS[name]))
  )
  np.testing.assert_allclose(product(x, y), (x.astype(np.float64) @ y).sum(0), atol=1e-3)
