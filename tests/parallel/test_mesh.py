"""A mesh splits the state evenly, and a step communicates no more than it needs to."""

import functools
import re

import jax
import numpy as np
import pytest

from tests.helpers.layout_step import BATCH, batch, setup
from vit_jax import create_model
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.pretrained.load import abstract_params

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def compiled(partitioner, **options):
  step, init = setup(**options)
  state = partitioner.with_shardings(jax.eval_shape(init))
  data = {
    k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=partitioner.batch_sharding)
    for k, v in batch(0).items()
  }
  with jax.set_mesh(partitioner.mesh):
    return partitioner.jit_train_step(step, state).lower(state, data).compile()


def collectives(program):
  """Return [(kind, shape of the result)] for the collectives of the compiled program."""
  operations = re.findall(
    r'^ *(?:ROOT )?%\S+ = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|'
    r'collective-permute)(?:-start)?\(',
    program.as_text(),
    re.MULTILINE,
  )
  return [(kind, shapes) for shapes, kind in operations]


def test_data_parallelism_only_reduces():
  kinds = {kind for kind, _ in collectives(compiled(MeshPartitioner(BATCH, mesh=(8, 1))))}
  assert kinds == {'all-reduce'}


@pytest.mark.parametrize('accumulate, scan', [slow(1, False), (2, True)])
def test_fsdp_gathers_parameters_and_never_the_batch(accumulate, scan):
  operations = collectives(
    compiled(MeshPartitioner(BATCH, accumulate, (2, 4)), accumulate=accumulate, scan=scan)
  )
  kinds = {kind for kind, _ in operations}
  assert 'all-gather' in kinds
  assert kinds <= {'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all'}
  for kind, shapes in operations:
    assert 'u8[' not in shapes, (kind, shapes)  # pixels
    for shape in re.findall(r'\w+\[([\d,]*)\]', shapes):
      # Activations are examples x 17 tokens x channels; the position embedding is 17 x 64.
      sides = [n for n in shape.split(',') if n != '1']
      assert '17' not in sides or sides == ['17', '64'], (kind, shapes)


@pytest.mark.slow
def test_memory_falls_with_remat_and_accumulation():
  temp = lambda **options: (
    compiled(MeshPartitioner(BATCH, options.get('accumulate', 1), (8, 1)), **options)
    .memory_analysis()
    .temp_size_in_bytes
  )
  deep = dict(num_layers=6, scan=True)  # without a loop, XLA on CPUs merges recomputed values
  none, dots, full = (temp(remat=remat, **deep) for remat in ('none', 'dots', 'full'))
  assert full < dots < none
  assert temp(accumulate=4, **deep) < none


def test_h14_is_cut_evenly():
  """The bytes per device of parameters and moments are proportional to 1 / fsdp."""
  model = create_model('ViT-H/14', num_classes=1000)
  params = abstract_params(model)
  total = sum(x.size for x in jax.tree.leaves(params))
  for fsdp in (1, 2, 4, 8):
    partitioner = MeshPartitioner(BATCH, mesh=(0, fsdp))
    shards = jax.tree.map(
      lambda x, s: np.prod(s.shard_shape(x.shape)), params, partitioner.shardings(params)
    )
    assert sum(jax.tree.leaves(shards)) == total / fsdp


def test_fsdp_takes_what_there_is():
  shape = lambda mesh, n: dict(
    MeshPartitioner(BATCH, mesh=mesh, devices=jax.devices()[:n]).mesh.shape
  )
  assert shape((0, 4), 8) == dict(data=2, fsdp=4)
  assert shape((0, 4), 2) == dict(data=1, fsdp=2)
  assert shape((2, 0), 8) == dict(data=2, fsdp=4)


@pytest.mark.parametrize('mesh', [(3, 2), (0, 3), (16, 1), (0, 0)])
def test_meshes_that_do_not_fit(mesh):
  with pytest.raises(ValueError, match='does not fit 8 devices'):
    MeshPartitioner(BATCH, mesh=mesh)
