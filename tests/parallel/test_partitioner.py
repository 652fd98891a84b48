"""The same step gives the same losses with every partitioner."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import small_step
from tests.helpers.jobs import free_port
from tests.helpers.layout_step import BATCH, TINY, batch, setup
from tests.helpers.paths import ROOT
from vit_jax import create_model
from vit_jax.models.pixels import to_input
from vit_jax.parallel.compiler import OPTION_SETS, supported
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.partitioner import WHOLE, Shard
from vit_jax.parallel.pmap import PmapPartitioner
from vit_jax.pretrained.load import abstract_params


def losses(partitioner, step, init, steps):
  state = partitioner.init(init)
  before = jax.tree.map(lambda x: x.sharding, state)
  train_step, steps_metrics = partitioner.train_step(step), []
  for k in range(steps):
    state, metrics = train_step(state, batch(k))
    steps_metrics.append([float(metrics['loss']), float(metrics['grad_norm'])])
  assert jax.tree.map(lambda x: x.sharding, state) == before  # compiled once
  return np.array(steps_metrics), state


@pytest.fixture(scope='module')
def alone():
  """Train for 20 steps on one device, with dropout."""
  step, init = setup()
  step, state, steps_metrics = jax.jit(step), init(), []
  for k in range(20):
    state, metrics = step(state, batch(k))
    steps_metrics.append([float(metrics['loss']), float(metrics['grad_norm'])])
  return np.array(steps_metrics)


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
  metrics, state = losses(partitioner, *setup(accumulate), steps=20)
  np.testing.assert_allclose(metrics[:, 0], alone[:, 0], rtol=1e-5)
  np.testing.assert_allclose(metrics[:, 1], alone[:, 1], rtol=1e-4)
  if mesh:
    kernel = state.opt_state[1].mu['head']['kernel']  # (64, 16)
    assert kernel.addressable_shards[0].data.shape == (64 // mesh[1], 16)


@pytest.mark.parametrize(
  'fields', [slow(dict(scan=True)), slow(dict(remat='dots')), dict(scan=True, remat='full')]
)
def test_scan_and_remat_change_no_loss(alone, fields):
  step, init = setup(**fields)
  assert jax.tree.structure(jax.eval_shape(init)) == jax.tree.structure(jax.eval_shape(setup()[1]))
  metrics, _ = losses(MeshPartitioner(BATCH, mesh=(4, 2)), step, init, steps=6)
  np.testing.assert_allclose(metrics[:, 0], alone[:6, 0], rtol=1e-5)


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


@pytest.mark.slow
def test_bfloat16_moment_is_smaller_and_near(alone):
  step, init = setup(moment_dtype='bfloat16')
  metrics, state = losses(MeshPartitioner(BATCH, mesh=(4, 2)), step, init, steps=6)
  assert state.opt_state[1].mu['cls'].dtype == jnp.bfloat16
  assert state.opt_state[1].nu['cls'].dtype == jnp.float32
  np.testing.assert_allclose(metrics[:, 0], alone[:6, 0], rtol=1e-2)


@pytest.mark.parametrize(
  'make',
  [lambda: PmapPartitioner(small_step.BATCH), lambda: MeshPartitioner(small_step.BATCH, 1, (2, 4))],
)
def test_gather_step_gives_every_row_in_order(make):
  partitioner = make()
  state = partitioner.put(small_step.with_head(small_step.setup()[1]()))
  gathered = partitioner.gather_step(
    lambda params, b: {
      'logits': small_step.MODEL.apply({'params': params}, to_input(b['image'])),
      'label': b['label'],
    }
  )
  gathered_rows, data = gathered(state.params, small_step.batch()), small_step.batch()
  np.testing.assert_array_equal(gathered_rows['label'], data['label'])
  want = small_step.MODEL.apply(
    {'params': jax.device_get(state.params)}, to_input(jnp.asarray(data['image']))
  )
  np.testing.assert_allclose(gathered_rows['logits'], want, rtol=1e-4, atol=1e-5)


def test_previous_rows_go_over_the_shards():
  """Row i gets row i - 1 of the whole batch, and the first row gets the last one."""
  x = np.arange(16 * 3).reshape(16, 3)
  shard = Shard('data', 8)
  mapped = jax.pmap(shard.previous_rows, axis_name='data')(x.reshape(8, 2, 3))
  np.testing.assert_array_equal(mapped.reshape(16, 3), np.roll(x, 1, axis=0))
  np.testing.assert_array_equal(WHOLE.previous_rows(jnp.asarray(x)), np.roll(x, 1, axis=0))


def test_means_and_sums_go_over_the_shards():
  x = {'a': np.arange(8.0)}
  shard = Shard('data', 8)
  assert jax.pmap(shard.mean, axis_name='data')(x)['a'].tolist() == [3.5] * 8
  assert jax.pmap(shard.sum, axis_name='data')(x)['a'].tolist() == [28] * 8
  assert WHOLE.mean(x) is x and WHOLE.sum(x) is x


def test_pmap_compiles_with_options():
  rows = small_step.batch()
  step = lambda params, b, shard: {'sum': shard.sum(jnp.sum(b['label'] * params))}
  for options in (None, {}, supported(OPTION_SETS['eigen'])):
    partitioner = PmapPartitioner(small_step.BATCH, options=options)
    assert int(partitioner.eval_step(step)(partitioner.put(2), rows)['sum']) == (
      2 * rows['label'].sum()
    )
  partitioner = PmapPartitioner(small_step.BATCH, options={'xla_no_such_option': True})
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_option'):
    partitioner.eval_step(step)(partitioner.put(2), rows)


def test_pmap_with_options_in_two_processes():
  """Every process gives its rows, and compiles with options. The results are those of all rows."""
  program = """
import sys
import jax, numpy as np
from vit_jax.parallel.compiler import OPTION_SETS, supported
from vit_jax.parallel.pmap import PmapPartitioner
process = int(sys.argv[1])
jax.distributed.initialize(f'localhost:{sys.argv[2]}', 2, process)
partitioner = PmapPartitioner(8, options=supported(OPTION_SETS['eigen']))
rows = {'x': np.arange(8.0)[process * 4:][:4]}
state = partitioner.init(lambda: jax.numpy.ones(3))
step = partitioner.train_step(lambda state, b, shard: (state + shard.sum(b['x'].sum()), {}))
for _ in range(2):
  state, _ = step(state, rows)
gathered = partitioner.gather_step(lambda params, b: b)(state, rows)
print(np.asarray(state).tolist(), gathered['x'].tolist())
"""
  port = free_port()
  env = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  job = [
    subprocess.Popen(
      [sys.executable, '-c', program, str(i), str(port)],
      env=env,
      cwd=ROOT,
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    for process in job:
      out, _ = process.communicate(timeout=120)
      assert process.returncode == 0
      assert out.splitlines()[-1] == f'{[57.0] * 3} {[float(i) for i in range(8)]}'
  finally:
    for process in job:
      process.kill()
