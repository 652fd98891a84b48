import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.evaluation.evaluate import evaluate
from vit_jax.evaluation.losses import cross_entropy
from vit_jax.models.pixels import to_input
from vit_jax.models.sizes import Variant
from vit_jax.models.vit import VisionTransformer
from vit_jax.parallel.pmap import PmapPartitioner
from vit_jax.training import optim
from vit_jax.training import step as step_lib
from vit_jax.training.objectives import supervised

MODEL = VisionTransformer(Variant(32, 64, 2, 2), 8, (16, 16), 10, dropout=0.2)


def batch(size=32, seed=0):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (size, 16, 16, 3), dtype=np.uint8),
    'label': rng.integers(0, 10, size, dtype=np.int32),
    'mask': np.ones(size, bool),
    'example': np.arange(size, dtype=np.int32),
  }


def setup(accumulate=1, model=MODEL, **options):
  schedule = lambda _: 1e-3
  optimizer = optim.make_optimizer(schedule, optim.OptimizerConfig(clip_norm=1.0, weight_decay=0.1))
  step = step_lib.make_train_step(
    supervised(model),
    optimizer,
    schedule,
    dropout_key=jax.random.key(1),
    accumulate=accumulate,
    **options,
  )
  state = jax.jit(lambda: step_lib.init_state(model, optimizer, jax.random.key(0)))()
  # A head that is not zero, so that every parameter has a gradient.
  head = jax.random.normal(jax.random.key(2), state.params['head']['kernel'].shape) * 0.1
  state.params['head']['kernel'] = head
  return step, state


@jax.jit
def forward(params, images):
  return MODEL.apply({'params': params}, to_input(images))


def close(a, b, rtol):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


def test_step_metrics_are_of_the_batch_before_the_update():
  step, state = setup(model=MODEL.clone(dropout=0.0))
  data = batch()
  after, metrics = jax.jit(step)(state, data)
  logits = forward(state.params, data['image'])
  p = np.asarray(jax.nn.log_softmax(logits))
  np.testing.assert_allclose(metrics['loss'], -p[np.arange(32), data['label']].mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics['accuracy'], (p.argmax(-1) == data['label']).mean())
  assert metrics['lr'] == np.float32(1e-3) and int(after.step) == 1
  loss = lambda params: cross_entropy(forward(params, data['image']), data['label']).mean()
  grads = jax.jit(jax.grad(loss))(state.params)
  norm = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(grads)))
  np.testing.assert_allclose(metrics['grad_norm'], norm, rtol=1e-4)


@pytest.mark.parametrize('accumulate', [2, 4, 8])
def test_accumulation_equals_the_large_batch(accumulate):
  """Dropout on: masks belong to examples, so the parts draw what the whole would."""
  data = batch()
  once, state = setup()
  parts, _ = setup(accumulate)
  (a, ma), (b, mb) = jax.jit(once)(state, data), jax.jit(parts)(state, data)
  close(ma, mb, 1e-6)
  moments = lambda s: jax.tree.leaves(s.opt_state)
  close(moments(a), moments(b), 1e-6)


def test_eight_devices_give_the_loss_of_one():
  """pmap over 8 devices, with accumulation and dropout, beside one device: 5 steps."""
  assert jax.device_count() == 8
  step, state = setup()
  one = jax.jit(step)
  partitioner = PmapPartitioner(32, accumulate=2)
  eight_step, _ = setup(2)
  eight = partitioner.train_step(eight_step)
  many = partitioner.put(state)
  for k in range(5):
    data = batch(seed=k)
    state, m1 = one(state, data)
    many, m8 = eight(many, data)
    close(m1, jax.device_get(m8), 1e-5)
  assert many.params['cls'].sharding.is_fully_replicated
  assert many.params['cls'].sharding.num_devices == 8


def test_the_step_compiles_once():
  """The state keeps the sharding that it was put with, of which a program is a function."""
  step, state = setup()
  partitioner = PmapPartitioner(32)
  state = partitioner.put(state)
  before = jax.tree.map(lambda x: x.sharding, state)
  state, _ = partitioner.train_step(step)(state, batch())
  assert jax.tree.map(lambda x: x.sharding, state) == before


def test_a_masked_example_adds_nothing():
  step, state = setup()
  data = batch()
  data['mask'][5] = False
  other = {k: v.copy() for k, v in data.items()}
  other['image'][5] = 0
  other['label'][5] = 3
  (a, ma), (b, mb) = jax.jit(step)(state, data), jax.jit(step)(state, other)
  close((a.params, ma), (b.params, mb), 0)


def test_dropout_changes_with_the_step():
  step, state = setup()
  _, m0 = jax.jit(step)(state, batch())
  _, m1 = jax.jit(step)(state.replace(step=jnp.int32(1)), batch())
  assert abs(m0['loss'] - m1['loss']) > 1e-4


@pytest.mark.parametrize('examples', [1, 31, 32, 33, 70])
def test_evaluation_counts_every_example_once(examples):
  """Any number of examples, padded to batches of 32 on 8 devices, equals one plain pass."""
  data = batch(examples, seed=3)
  params = setup()[1].params
  logits = np.asarray(forward(params, data['image']))

  def padded():
    for start in range(0, examples, 32):
      part = {k: v[start : start + 32] for k, v in data.items()}
      short = 32 - len(part['label'])
      yield {k: np.pad(v, [(0, short)] + [(0, 0)] * (v.ndim - 1)) for k, v in part.items()}

  partitioner = PmapPartitioner(32)
  step = step_lib.make_eval_step(supervised(MODEL))
  found = evaluate(partitioner.eval_step(step), partitioner.put(params), padded())
  losses = cross_entropy(logits, data['label'])
  assert found['examples'] == examples
  assert found['accuracy'] == (logits.argmax(-1) == data['label']).sum() / examples
  np.testing.assert_allclose(found['loss'], losses.mean(), rtol=1e-5)


def test_a_stopped_evaluation_gives_nothing():
  partitioner = PmapPartitioner(32)
  eval_step = partitioner.eval_step(step_lib.make_eval_step(supervised(MODEL)))
  assert (
    evaluate(eval_step, partitioner.put(setup()[1].params), [batch()] * 3, lambda: True) is None
  )


def test_batch_must_divide():
  with pytest.raises(
    ValueError, match=r'^batch_size=20 does not divide over 8 devices\. Try batch_size=16\.$'
  ):
    PmapPartitioner(20)
  with pytest.raises(ValueError, match=r'8 devices x 3 accumulation passes\. Try batch_size=24\.$'):
    PmapPartitioner(32, accumulate=3)
  step, state = setup(accumulate=3)
  with pytest.raises(ValueError, match=r'^Cannot split the 32 examples of a device into 3 acc'):
    jax.eval_shape(step, state, batch())
