"""Memory traffic of programs whose bytes can be counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.paths import FILES
from vit_jax import create_model
from vit_jax.cost.traffic import count_traffic

TEXT = (FILES / 'tpu_program.hlo').read_text()


def test_traffic_of_a_tpu_program():
  """The loop moves its counter, the gather's operand twice, the slice twice, and its index."""
  turn = 4 + 2 * (16 * 32 * 2) + 2 * (8 * 128 * 4) + 4
  entry = (8 * 128 * 4 + 4) + (8 * 128 * 4 + 4 + 8 * 4) + 2 * 8 * 4  # send, reduce, all-reduce
  program = count_traffic(TEXT, 16)
  assert program.memory_bytes == 3 * turn + entry
  assert program.unknown_loops == 0


def test_a_loop_of_unknown_length_is_counted_once_and_reported():
  program = count_traffic(TEXT.replace('direction=LT', 'direction=NE'), 16)
  assert program.unknown_loops == 1
  assert {c.times for c in program.collectives} == {1}


def test_traffic_of_a_program_compiled_here():
  x = jax.ShapeDtypeStruct((1000,), jnp.float32)
  text = jax.jit(lambda x: x + 1).lower(x).compile().as_text()
  assert count_traffic(text, 1).memory_bytes == 2 * x.size * 4
  update = jax.jit(lambda x, y: x.at[7].set(y), donate_argnums=0)
  text = update.lower(x, jax.ShapeDtypeStruct((), np.float32)).compile().as_text()
  assert count_traffic(text, 1).memory_bytes < 100


def test_traffic_is_the_compilers_own_count_where_there_is_no_loop():
  model = create_model('ViT-Ti/8', num_classes=10, image_size=32, num_layers=2)
  images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  gradient = jax.grad(lambda v, x: model.apply(v, x).sum())
  compiled = jax.jit(gradient).lower(variables, images).compile()
  counted = compiled.cost_analysis()['bytes accessed']
  assert count_traffic(compiled.as_text(), 1).memory_bytes == pytest.approx(counted, rel=1e-3)


def test_a_custom_kernel_reads_its_operands_and_writes_its_result():
  """Kernels of Pallas are opaque, but what they take and return is not."""
  text = """
HloModule step

ENTRY %main (q: bf16[8,128], k: bf16[8,128]) -> bf16[8,256] {
  %q = bf16[8,128]{1,0} parameter(0)
  %k = bf16[8,128]{1,0} parameter(1)
  ROOT %y = bf16[8,256]{1,0} custom-call(%q, %k), custom_call_target="tpu_custom_call"
}
"""
  assert count_traffic(text, 1).memory_bytes == 2 * (8 * 128 * 2) + 8 * 256 * 2
