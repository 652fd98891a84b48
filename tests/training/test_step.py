import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import small_step
from vit_jax.evaluation.losses import cross_entropy
from vit_jax.evaluation.mean_metrics import evaluate
from vit_jax.models.freeze import trainable_filter
from vit_jax.models.pixels import to_input
from vit_jax.models.sizes import Variant
from vit_jax.models.vit import VisionTransformer
from vit_jax.parallel.pmap import PmapPartitioner
from vit_jax.pretrained.fingerprint import named_leaves
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
  """With dropout: masks depend on the example, so the passes draw the masks of the whole batch."""
  data = batch()
  once, state = setup()
  parts, _ = setup(accumulate)
  (a, ma), (b, mb) = jax.jit(once)(state, data), jax.jit(parts)(state, data)
  close(ma, mb, 1e-6)
  moments = lambda s: jax.tree.leaves(s.opt_state)
  close(moments(a), moments(b), 1e-6)


def test_eight_devices_give_the_loss_of_one():
  """Five steps of pmap over 8 devices, with accumulation and dropout, equal those of one device."""
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
  """The state keeps its sharding. With another one, the second step would compile again."""
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
  metrics = evaluate(partitioner.eval_step(step), partitioner.put(params), padded())
  losses = cross_entropy(logits, data['label'])
  assert metrics['examples'] == examples
  assert metrics['accuracy'] == (logits.argmax(-1) == data['label']).sum() / examples
  np.testing.assert_allclose(metrics['loss'], losses.mean(), rtol=1e-5)


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


# With an average of the parameters, and with frozen parameters.


def test_average_is_the_weighted_mean_of_the_parameters_after_each_step():
  step, init = small_step.setup(average=0.7)
  step, state, history = jax.jit(step), small_step.with_head(init()), []
  for k in range(4):
    state, _ = step(state, small_step.batch(k))
    history.append(state.params)
    weights = 0.7 ** np.arange(len(history))[::-1]
    weights /= weights.sum()
    parts = [jax.tree.map(lambda p, w=w: w * p, p) for w, p in zip(weights, history)]
    want = jax.tree.map(lambda *x: sum(x), *parts)
    small_step.close(state.average, want, 1e-6)
  assert np.abs(state.average['cls'] - state.params['cls']).max() > 1e-5


def test_average_of_the_papers_factor_is_exact_at_both_ends():
  """In float32, the first average is the first parameters, and equal parameters stay equal."""
  params = {'a': jnp.array([1e-3, -2.0, 3e4])}
  first = step_lib._averaged({'a': jnp.zeros(3)}, params, jnp.array(0), 0.9999)
  np.testing.assert_allclose(first['a'], params['a'], rtol=1e-6)
  for step in (1, 1000, 300_000):
    assert (step_lib._averaged(params, params, jnp.array(step), 0.9999)['a'] == params['a']).all()


@pytest.mark.parametrize(
  'blocks, want',
  [
    (0, {'head'}),
    (1, {'head', 'encoder_norm', 'encoderblock_2'}),
    (3, {'head', 'encoder_norm', 'encoderblock_0', 'encoderblock_1', 'encoderblock_2'}),
  ],
)
def test_only_the_last_blocks_are_trained(blocks, want):
  """Trained blocks get the same gradients as in full training. Frozen ones have no moments."""
  trainable = trainable_filter(small_step.MODEL, blocks)
  (full, init_full), (part, init) = small_step.setup(), small_step.setup(trainable=trainable)
  state = small_step.with_head(init())
  a, ma = jax.jit(full)(small_step.with_head(init_full()), small_step.batch())
  b, mb = jax.jit(part)(state, small_step.batch())
  assert float(mb['loss']) == pytest.approx(float(ma['loss']), rel=1e-6)
  assert float(mb['grad_norm']) < float(ma['grad_norm'])
  place = lambda name: name.removeprefix('Transformer/').split('/')[0]
  names, before = named_leaves(state.params)
  moved = set()
  for name, x, y, z in zip(names, before, *map(jax.tree.leaves, (b.params, a.params))):
    if place(name) in want:
      np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-7)
      moved.add(place(name))
    else:
      np.testing.assert_array_equal(x, y)
  assert moved == want
  assert {place(n.split('/', 2)[2]) for n in named_leaves(b.opt_state)[0] if 'trace' in n} == want


def test_a_linear_probe_computes_no_backward_pass():
  """Its only products are those of the forward pass and the gradient of the head."""
  flops = lambda trainable: (
    jax.jit(small_step.setup(trainable=trainable)[0])
    .lower(small_step.setup(trainable=trainable)[1](), small_step.batch())
    .compile()
    .cost_analysis()['flops']
  )
  assert flops(trainable_filter(small_step.MODEL, 0)) < 0.45 * flops(None)
