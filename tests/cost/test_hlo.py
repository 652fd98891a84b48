"""Collectives and memory traffic against programs whose figures are known by hand."""

import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from tests.helpers.paths import FILES
from vit_jax import create_model
from vit_jax.cost.hlo import Collective, array_bytes, read_program

# Written by hand as the TPU compiler writes: 16 devices; a loop of 3 turns without a note of its
# length, in which an asynchronous gather stands twice, a sum that is cut up, arrays in fast memory.
TEXT = (FILES / 'tpu_program.hlo').read_text()


def test_collectives_of_a_tpu_program():
  found = sorted(read_program(TEXT, 16).collectives)
  assert found == [
    Collective('all-gather', 64 * 32 * 2 * 3 // 4, 3, (0, 1, 2, 3)),
    Collective('all-reduce', 2 * 8 * 4 * 15 // 16, 1, tuple(range(16))),
    Collective('between slices', 2 * 8 * 128 * 4 * 3 // 4, 1, ()),
    Collective('reduce-scatter', 64 * 32 * 2 * 3 // 4, 3, (0, 1, 2, 3)),
  ]


def test_traffic_of_a_tpu_program():
  """The loop: the count 4 + the gather's operand twice, the slice read and written, its index."""
  turn = 4 + 2 * (16 * 32 * 2) + 2 * (8 * 128 * 4) + 4
  entry = (8 * 128 * 4 + 4) + (8 * 128 * 4 + 4 + 8 * 4) + 2 * 8 * 4  # send, reduce, all-reduce
  program = read_program(TEXT, 16)
  assert program.memory_bytes == 3 * turn + entry
  assert program.unknown_loops == 0


def test_a_loop_of_unknown_length_is_counted_once_and_told():
  program = read_program(TEXT.replace('direction=LT', 'direction=NE'), 16)
  assert program.unknown_loops == 1
  assert {c.times for c in program.collectives} == {1}


@pytest.mark.parametrize(
  'notation, group',
  [
    ("mesh['axis_0'=4,'axis_1'=4], device_ids=([4,4]T(1,0)) {'axis_0'}", (0, 1, 2, 3)),
    ("mesh['axis_0'=4,'axis_1'=4] {'axis_0'}", (0, 4, 8, 12)),
    ("mesh['a'=2,'b'=2,'c'=4] {'a','c'}", (0, 1, 2, 3, 8, 9, 10, 11)),
    ("mesh['a'=16] {'a':(2)4}", (0, 2, 4, 6)),
    ('[4,4]<=[16]', (0, 1, 2, 3)),
    ('[4,4]<=[4,4]T(1,0)', (0, 4, 8, 12)),
    ('{{3,5},{1,2}}', (3, 5)),
    ('{}', tuple(range(16))),
  ],
)
def test_groups_in_every_notation(notation, group):
  text = TEXT.replace('[1,16]<=[16]', notation)
  (found,) = (c for c in read_program(text, 16).collectives if c.kind == 'all-reduce')
  assert found.group == group
  assert found.moved == 2 * 32 * (len(group) - 1) // len(group)


@pytest.mark.parametrize(
  'shape, size',
  [
    ('f32[2,3]{1,0}', 24),
    ('bf16[8,128]{1,0:T(8,128)(2,1)S(1)}', 2048),
    ('pred[]', 1),
    ('(s32[4]{0}, /*index=1*/f8e4m3fn[10])', 26),
    ('s4[6]', 3),
    ('f64[0,5]', 0),
  ],
)
def test_array_bytes(shape, size):
  assert array_bytes(shape) == size


def mesh(*shape):
  return Mesh(mesh_utils.create_device_mesh(shape), ('data', 'fsdp')[-len(shape) :])


def test_collectives_of_a_program_compiled_here():
  """A gathered matrix in each of 5 turns, and one sum over all 8 devices."""
  m = mesh(2, 4)
  cut, whole = NamedSharding(m, P(None, 'fsdp')), NamedSharding(m, P())

  def step(ws, x):
    def turn(x, w):
      return jnp.tanh(x @ jax.lax.with_sharding_constraint(w, whole)), None

    x, _ = jax.lax.scan(turn, x, ws)
    return x.sum()

  args = (
    jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=cut),
    jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(m, P(('data', 'fsdp')))),
  )
  program = read_program(jax.jit(step, out_shardings=whole).lower(*args).compile().as_text(), 8)
  moved = {}
  for c in program.collectives:
    moved[c.kind, len(c.group)] = moved.get((c.kind, len(c.group)), 0) + c.moved * c.times
  assert moved == {('all-gather', 4): 5 * 64 * 64 * 4 * 3 // 4, ('all-reduce', 8): 2 * 4 * 7 // 8}
  assert program.unknown_loops == 0


def test_traffic_of_a_program_compiled_here():
  x = jax.ShapeDtypeStruct((1000,), jnp.float32)
  text = jax.jit(lambda x: x + 1).lower(x).compile().as_text()
  assert read_program(text, 1).memory_bytes == 2 * x.size * 4
  update = jax.jit(lambda x, y: x.at[7].set(y), donate_argnums=0)
  text = update.lower(x, jax.ShapeDtypeStruct((), np.float32)).compile().as_text()
  assert read_program(text, 1).memory_bytes < 100


def test_traffic_is_the_compilers_own_count_where_there_is_no_loop():
  model = create_model('ViT-Ti/8', num_classes=10, image_size=32, num_layers=2)
  images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  gradient = jax.grad(lambda v, x: model.apply(v, x).sum())
  compiled = jax.jit(gradient).lower(variables, images).compile()
  counted = compiled.cost_analysis()['bytes accessed']
  assert read_program(compiled.as_text(), 1).memory_bytes == pytest.approx(counted, rel=1e-3)
