"""Train steps compiled for simulated devices, and the memory that they take."""

import jax
import pytest

from tests.helpers.plans import step_and_state
from vit_jax.config.fields import default_config
from vit_jax.cost.compile_step import OutOfMemory, compile_step, shorten
from vit_jax.cost.memory import state_bytes
from vit_jax.parallel.mesh import MeshPartitioner

GIB = 2**30


def config(model='ViT-Ti/8', **fields):
  c = default_config()
  c.update(
    dict(
      model=model,
      image_size=32,
      batch_size=256,
      dropout=0.1,
      dataset='imagenet2012',
      scan=True,
      num_layers=3,
    )
    | fields
  )
  return c


def compile_here(partitioner, step, state, c, available):
  return compile_step(
    partitioner,
    step,
    state,
    image_size=c.image_size,
    batch_size=c.batch_size,
    available=available,
    compiler_options={},
  )


def compiled_here(c, mesh):
  partitioner, (step, state) = MeshPartitioner(c.batch_size, c.accumulate, mesh), step_and_state(c)
  return (state, partitioner, compile_here(partitioner, step, state, c, 1e12))


def test_every_byte_has_its_kind():
  c = config(moment_dtype='bfloat16')
  state, partitioner, (compiled, memory, _) = compiled_here(c, (2, 4))
  count = sum(x.size for x in jax.tree.leaves(state.params))
  # A device holds a quarter of each array that has a side divisible by 4.
  assert count * 4 / 4 <= memory.parameters < count * 4 / 4 * 1.05
  assert memory.moments == memory.parameters * 3 // 2
  assert memory.rest_of_the_state == 4 + 2 * 4  # our step count, and those of Optax
  assert memory.batch == 256 // 8 * (32 * 32 * 3 + 4 + 1 + 4)
  analysis = compiled.memory_analysis()
  assert memory.padding == 0 and memory.temporaries == analysis.temp_size_in_bytes
  assert memory.total == sum(memory) and memory.outputs < 4096
  assert state_bytes(partitioner.with_shardings(state)) == memory[:3]


def test_what_does_not_fit_is_refused():
  c = config()
  (step, state), partitioner = step_and_state(c), MeshPartitioner(c.batch_size, mesh=(8, 1))
  with pytest.raises(OutOfMemory, match=r'^it needs \d\.\d\d of 0.01 GiB$'):
    compile_here(partitioner, step, state, c, GIB / 100)


@pytest.mark.parametrize(
  'message, words',
  [
    (
      'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
      'Used 20.14G of 15.75G hbm. Exceeded hbm capacity by 4.39G.\n\nTotal hbm usage >= 20.39G:',
      'it needs 20.14GiB of 15.75GiB',
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries '
      '(29.88G) exceeds available HBM (15.75G).',
      'its temporaries alone need 29.88GiB of 15.75GiB',
    ),
    ('RESOURCE_EXHAUSTED: something else\nmore', 'RESOURCE_EXHAUSTED: something else'),
  ],
)
def test_the_compilers_message_is_shortened(message, words):
  assert shorten(message) == words
