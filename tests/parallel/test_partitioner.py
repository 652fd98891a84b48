"""The same step on every mesh: equal losses, and no more communication than the design says."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import create_model
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.pmap import PmapPartitioner
from vit_jax.pretrained.load import abstract_params
from vit_jax.training import optim
from vit_jax.training import step as step_lib
from vit_jax.training.objectives import supervised

BATCH = 32
TINY = dict(
  num_classes=16, image_size=32, hidden_dim=64, mlp_dim=128, num_heads=4, num_layers=2, dropout=0.1
)


def setup(accumulate=1, moment_dtype='float32', **fields):
  model = create_model('ViT-Ti/8', **{**TINY, **fields})
  schedule = lambda _: 3e-3
  config = optim.OptimizerConfig(clip_norm=1.0, weight_decay=0.1, moment_dtype=moment_dtype)
  optimizer = optim.make_optimizer(schedule, config)
  step = step_lib.make_train_step(
    supervised(model), optimizer, schedule, dropout_key=jax.random.key(1), accumulate=accumulate
  )
  return step, lambda: step_lib.init_state(model, optimizer, jax.random.key(0))


def batch(seed):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (BATCH, 32, 32, 3), np.uint8),
    'label': rng.integers(0, 16, BATCH, np.int32),
    'mask': np.ones(BATCH, bool),
    'example': np.arange(BATCH, dtype=np.int32),
  }


def losses(partitioner, step, init, steps):
  state = partitioner.init(init)
  before = jax.tree.map(lambda x: x.sharding, state)
  train_step, found = partitioner.train_step(step), []
  for k in range(steps):
    state, metrics = train_step(state, batch(k))
    found.append([float(metrics['loss']), float(metrics['grad_norm'])])
  assert jax.tree.map(lambda x: x.sharding, state) == before  # compiled once
  return np.array(found), state


@pytest.fixture(scope='module')
def alone():
  """20 steps on one device, with dropout."""
  step, init = setup()
  step, state, found = jax.jit(step), init(), []
  for k in range(20):
    state, metrics = step(state, batch(k))
    found.append([float(metrics['loss']), float(metrics['grad_norm'])])
  return np.array(found)


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  'mesh, accumulate',
  [
    slow(None, 1),
    slow((8, 1), 1),
    slow((4, 2), 1),
    slow((1, 8), 1),
    slow(None, 2),
    slow((2, 4), 1),
    ((2, 4), 2),
  ],
)
def test_every_mesh_gives_the_losses_of_one_device(alone, mesh, accumulate):
  partitioner = (
    MeshPartitioner(BATCH, accumulate, mesh) if mesh else PmapPartitioner(BATCH, accumulate)
  )
  found, state = losses(partitioner, *setup(accumulate), steps=20)
  np.testing.assert_allclose(found[:, 0], alone[:, 0], rtol=1e-5)
  np.testing.assert_allclose(found[:, 1], alone[:, 1], rtol=1e-4)
  if mesh:
    kernel = state.opt_state[1].mu['head']['kernel']  # (64, 16)
    assert kernel.addressable_shards[0].data.shape == (64 // mesh[1], 16)


@pytest.mark.parametrize(
  'fields', [slow(dict(scan=True)), slow(dict(remat='dots')), dict(scan=True, remat='full')]
)
def test_scan_and_remat_change_no_loss(alone, fields):
  step, init = setup(**fields)
  assert jax.tree.structure(jax.eval_shape(init)) == jax.tree.structure(jax.eval_shape(setup()[1]))
  found, _ = losses(MeshPartitioner(BATCH, mesh=(4, 2)), step, init, steps=6)
  np.testing.assert_allclose(found[:, 0], alone[:6, 0], rtol=1e-5)


@pytest.mark.parametrize(
  'fields',
  [
    dict(pos_embedding_at='shared'),
    dict(pos_embedding_at='every'),
    dict(pos_embedding='relative', pos_embedding_at='shared'),
    dict(pos_embedding='relative'),
    dict(attention='axial', head='gap'),
    dict(registers=2, layer_scale=0.1, pre_norm=True),
    dict(pos_embedding='sincos2d', pos_embedding_at='shared'),
  ],
)
def test_scan_goes_with_every_kind_of_block(fields):
  model = create_model('ViT-Ti/8', **{**TINY, 'num_layers': 2, **fields})
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), abstract_params(model)
  )
  apply = lambda m: m.apply(
    {'params': params},
    batch(0)['image'][:2] / np.float32(255),
    train=True,
    rngs={'dropout': jax.random.key(0)},
  )
  np.testing.assert_allclose(apply(model.clone(scan=True, remat='full')), apply(model), atol=2e-5)


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
  """[(kind, shape of the result)] of the compiled program."""
  found = re.findall(
    r'^ *(?:ROOT )?%\S+ = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|'
    r'collective-permute)(?:-start)?\(',
    program.as_text(),
    re.MULTILINE,
  )
  return [(kind, shapes) for shapes, kind in found]


def test_data_parallelism_only_reduces():
  kinds = {kind for kind, _ in collectives(compiled(MeshPartitioner(BATCH, mesh=(8, 1))))}
  assert kinds == {'all-reduce'}


@pytest.mark.parametrize('accumulate, scan', [slow(1, False), (2, True)])
def test_fsdp_gathers_parameters_and_never_the_batch(accumulate, scan):
  found = collectives(
    compiled(MeshPartitioner(BATCH, accumulate, (2, 4)), accumulate=accumulate, scan=scan)
  )
  kinds = {kind for kind, _ in found}
  assert 'all-gather' in kinds
  assert kinds <= {'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all'}
  for kind, shapes in found:
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
  deep = dict(num_layers=6, scan=True)  # a CPU program without a loop merges what is computed again
  none, dots, full = (temp(remat=remat, **deep) for remat in ('none', 'dots', 'full'))
  assert full < dots < none
  assert temp(accumulate=4, **deep) < none


def test_h14_is_cut_evenly():
  """Bytes per device of parameters and moments fall as 1 / fsdp."""
  model = create_model('ViT-H/14', num_classes=1000)
  params = abstract_params(model)
  total = sum(x.size for x in jax.tree.leaves(params))
  for fsdp in (1, 2, 4, 8):
    partitioner = MeshPartitioner(BATCH, mesh=(0, fsdp))
    shards = jax.tree.map(
      lambda x, s: np.prod(s.shard_shape(x.shape)), params, partitioner.shardings(params)
    )
    assert sum(jax.tree.leaves(shards)) == total / fsdp


@pytest.mark.slow
def test_bfloat16_moment_is_smaller_and_near(alone):
  step, init = setup(moment_dtype='bfloat16')
  found, state = losses(MeshPartitioner(BATCH, mesh=(4, 2)), step, init, steps=6)
  assert state.opt_state[1].mu['cls'].dtype == jnp.bfloat16
  assert state.opt_state[1].nu['cls'].dtype == jnp.float32
  np.testing.assert_allclose(found[:, 0], alone[:6, 0], rtol=1e-2)


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
