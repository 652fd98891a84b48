import jax
import numpy as np

from vit_jax.parallel.compiler import compile_with, compiler_options


def test_only_cpus_have_options():
  assert compiler_options('tpu') == compiler_options('gpu') == {}
  assert set(compiler_options('cpu')) <= {'xla_cpu_experimental_ynn_fusion_type'}


def test_a_pmap_with_and_without_options():
  mapped = jax.pmap(lambda x, y: x + y, in_axes=(None, 0))
  assert compile_with(mapped, {}) is mapped
  call = compile_with(mapped, {'xla_cpu_enable_fast_math': False})
  y = np.arange(jax.local_device_count())
  for x in (1, 2):
    assert call(np.int64(x), y).tolist() == (x + y).tolist()
