"""Collectives of programs whose bytes can be counted by hand."""

import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import pytest

from tests.helpers.paths import FILES
from vit_jax.cost.collectives import Collective, find_collectives
from vit_jax.cost.hlo import count_runs, parse_program

# Written by hand in the style of the TPU compiler, for 16 devices. The loop of 3 turns has no note
# of its length, and an asynchronous gather appears twice in it. The program also has a sum that is
# split up, and arrays in fast memory.
TEXT = (FILES / 'tpu_program.hlo').read_text()


def collectives(text, num_devices):
  program = parse_program(text)
  return find_collectives(program, count_runs(program)[0], num_devices)


def test_collectives_of_a_tpu_program():
  assert sorted(collectives(TEXT, 16)) == [
    Collective('all-gather', 64 * 32 * 2 * 3 // 4, 3, (0, 1, 2, 3)),
    Collective('all-reduce', 2 * 8 * 4 * 15 // 16, 1, tuple(range(16))),
    Collective('between slices', 2 * 8 * 128 * 4 * 3 // 4, 1, ()),
    Collective('reduce-scatter', 64 * 32 * 2 * 3 // 4, 3, (0, 1, 2, 3)),
  ]


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
  (collective,) = (c for c in collectives(text, 16) if c.kind == 'all-reduce')
  assert collective.group == group
  assert collective.bytes_moved == 2 * 32 * (len(group) - 1) // len(group)


def mesh(*shape):
  return Mesh(mesh_utils.create_device_mesh(shape), ('data', 'fsdp')[-len(shape) :])


def test_collectives_of_a_program_compiled_here():
  """The program gathers a matrix in each of 5 turns, and has one sum over all 8 devices."""
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
  text = jax.jit(step, out_shardings=whole).lower(*args).compile().as_text()
  moved = {}
  for c in collectives(text, 8):
    moved[c.kind, len(c.group)] = moved.get((c.kind, len(c.group)), 0) + c.bytes_moved * c.times
  assert moved == {('all-gather', 4): 5 * 64 * 64 * 4 * 3 // 4, ('all-reduce', 8): 2 * 4 * 7 // 8}
  assert count_runs(parse_program(text))[1] == 0
