"""What fine-tuning adds to a step: mixup, averaged parameters, frozen ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import create_model, load_params
from vit_jax.config.fields import default_config
from vit_jax.evaluation.evaluate import evaluate
from vit_jax.models.freeze import trainable_filter
from vit_jax.models.pixels import to_input
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.partitioner import WHOLE
from vit_jax.parallel.pmap import PmapPartitioner
from vit_jax.pretrained.fingerprint import named_leaves
from vit_jax.training import optim
from vit_jax.training import step as step_lib
from vit_jax.training.inputs import Inputs
from vit_jax.training.loop import train
from vit_jax.training.mixup import draw_partner
from vit_jax.training.objectives import supervised

BATCH = 16
MODEL = create_model(
  'ViT-Ti/4', num_classes=5, image_size=8, hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=3
)


def batch(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8),
    'label': rng.integers(0, 5, BATCH, dtype=np.int32),
    'mask': np.ones(BATCH, bool),
    'example': np.arange(BATCH, dtype=np.int32),
  }


def setup(model=MODEL, average=0.0, trainable=None, kind='sgd', **options):
  schedule = optim.Schedule('cosine', peak=0.1, total_steps=20, warmup_steps=0)
  optimizer = optim.make_optimizer(schedule, optim.OptimizerConfig(kind))
  step = step_lib.make_train_step(
    supervised(model),
    optimizer,
    schedule,
    dropout_key=jax.random.key(1),
    average=average,
    trainable=trainable,
    **options,
  )
  init = lambda: step_lib.init_state(
    model, optimizer, jax.random.key(0), trainable=trainable, average=bool(average)
  )
  return step, init


def with_head(state):
  """The head is not zero, so that every parameter has a gradient."""
  kernel = jax.random.normal(jax.random.key(2), state.params['head']['kernel'].shape) * 0.1
  return state.replace(params=state.params | {'head': {**state.params['head'], 'kernel': kernel}})


def close(a, b, tolerance):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_average_is_the_weighted_mean_of_the_parameters_after_each_step():
  step, init = setup(average=0.7)
  step, state, history = jax.jit(step), with_head(init()), []
  for k in range(4):
    state, _ = step(state, batch(k))
    history.append(state.params)
    weights = 0.7 ** np.arange(len(history))[::-1]
    want = jax.tree.map(lambda *x: sum(w * p for w, p in zip(weights / weights.sum(), x)), *history)
    close(state.average, want, 1e-6)
  assert np.abs(state.average['cls'] - state.params['cls']).max() > 1e-5


def test_average_of_the_papers_factor_is_exact_at_both_ends():
  """In float32: the first step leaves nothing of zeros, and equal parameters stay as they are."""
  params = {'a': jnp.array([1e-3, -2.0, 3e4])}
  first = step_lib._averaged({'a': jnp.zeros(3)}, params, jnp.array(0), 0.9999)
  np.testing.assert_allclose(first['a'], params['a'], rtol=1e-6)
  for step in (1, 1000, 300_000):
    assert (step_lib._averaged(params, params, jnp.array(step), 0.9999)['a'] == params['a']).all()


def mixed_by_hand(data, share):
  before = lambda x: np.roll(x, 1, axis=0)
  images = np.asarray(to_input(jnp.asarray(data['image'])))
  targets = np.eye(5)[data['label']]
  return share * images + (1 - share) * before(images), (
    share * targets + (1 - share) * before(targets)
  )


def test_mixup_is_the_loss_of_mixed_images_and_labels():
  step, init = setup(mixup=0.8)
  state, data = with_head(init()), batch()
  _, metrics = jax.jit(step)(state, data)
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 0), 2**32 - 1)
  share = float(jax.random.beta(key, 0.8, 0.8))
  share = max(share, 1 - share)
  assert 0.5 < share < 0.99
  images, targets = mixed_by_hand(data, share)
  logits = MODEL.apply({'params': state.params}, jnp.asarray(images))
  want = -np.mean(np.sum(targets * np.asarray(jax.nn.log_softmax(logits)), -1))
  np.testing.assert_allclose(metrics['loss'], want, rtol=1e-5)
  np.testing.assert_allclose(metrics['accuracy'], np.mean(logits.argmax(-1) == data['label']))


def test_each_step_draws_its_own_mixture_from_beta():
  shares = np.array(
    [
      draw_partner(jax.tree.map(jnp.asarray, batch()), 0.2, jax.random.key(k), WHOLE).share
      for k in range(400)
    ]
  )
  assert (shares == shares[:, :1]).all()  # one for the whole batch
  draws = np.random.default_rng(0).beta(0.2, 0.2, 100_000)
  want = np.maximum(draws, 1 - draws)
  assert shares.min() >= 0.5
  assert abs(shares.mean() - want.mean()) < 3 * want.std() / 20


def test_an_unreadable_image_is_mixed_into_none():
  step, init = setup(mixup=0.8)
  data = batch()
  data['mask'][5] = False
  other = {k: v.copy() for k, v in data.items()}
  other['image'][5], other['label'][5] = 0, 3
  state = with_head(init())
  close(jax.jit(step)(state, data), jax.jit(step)(state, other), 0)


@pytest.mark.parametrize(
  'make',
  [
    lambda: PmapPartitioner(BATCH, 1),
    lambda: PmapPartitioner(BATCH, 2),
    lambda: MeshPartitioner(BATCH, 2, (2, 4)),
  ],
)
def test_mixup_and_average_are_the_same_on_every_layout(make):
  partitioner = make()
  accumulate = (
    2 if BATCH // partitioner.num_devices == 2 and isinstance(partitioner, MeshPartitioner) else 1
  )
  one, init = setup(mixup=0.8, average=0.9)
  alone, one = with_head(init()), jax.jit(one)
  step, _ = setup(mixup=0.8, average=0.9, accumulate=accumulate)
  many, step = partitioner.put(with_head(init())), partitioner.train_step(step)
  for k in range(3):
    alone, m1 = one(alone, batch(k))
    many, m2 = step(many, batch(k))
    close(m1, jax.device_get(m2), 1e-5)
  close(alone.average, jax.device_get(many.average), 1e-5)


@pytest.mark.parametrize(
  'make', [lambda: PmapPartitioner(BATCH), lambda: MeshPartitioner(BATCH, 1, (2, 4))]
)
def test_gather_step_gives_every_row_in_order(make):
  partitioner = make()
  state = partitioner.put(with_head(setup()[1]()))
  gathered = partitioner.gather_step(
    lambda params, b: {
      'logits': MODEL.apply({'params': params}, to_input(b['image'])),
      'label': b['label'],
    }
  )
  found, data = gathered(state.params, batch()), batch()
  np.testing.assert_array_equal(found['label'], data['label'])
  want = MODEL.apply({'params': jax.device_get(state.params)}, to_input(jnp.asarray(data['image'])))
  np.testing.assert_allclose(found['logits'], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'blocks, want',
  [
    (0, {'head'}),
    (1, {'head', 'encoder_norm', 'encoderblock_2'}),
    (3, {'head', 'encoder_norm', 'encoderblock_0', 'encoderblock_1', 'encoderblock_2'}),
  ],
)
def test_only_the_last_blocks_are_trained(blocks, want):
  """They get the gradients that they get among all, the others stay, and have no moments."""
  trainable = trainable_filter(MODEL, blocks)
  (full, init_full), (part, init) = setup(), setup(trainable=trainable)
  state = with_head(init())
  a, ma = jax.jit(full)(with_head(init_full()), batch())
  b, mb = jax.jit(part)(state, batch())
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
  """Its products are the forward pass's, the head's gradient and no other."""
  flops = lambda trainable: (
    jax.jit(setup(trainable=trainable)[0])
    .lower(setup(trainable=trainable)[1](), batch())
    .compile()
    .cost_analysis()['flops']
  )
  assert flops(trainable_filter(MODEL, 0)) < 0.45 * flops(None)


def config(data_dir, **fields):
  c = default_config()
  c.model, c.num_layers, c.hidden_dim, c.mlp_dim, c.num_heads = 'ViT-Ti/4', 2, 16, 32, 2
  c.dataset, c.data_dir, c.image_size, c.preset, c.dtype = 'digits', data_dir, 8, 'bit', 'float32'
  c.batch_size, c.total_steps, c.warmup_steps, c.lr = 64, 6, 0, 1e-3
  c.eval_every = c.save_every = 3
  c.eval_split = 'test[:100]'
  c.update(fields)
  return c


@pytest.fixture(scope='module')
def pretrained(digits_dir, tmp_path_factory):
  """A run of six steps that keeps an average."""
  workdir = tmp_path_factory.mktemp('pretrained') / 'run'
  return workdir, train(config(digits_dir, average=0.9), workdir)


def test_the_average_is_evaluated_resumed_and_exported(pretrained, digits_dir, tmp_path):
  workdir, metrics = pretrained
  c = config(digits_dir, average=0.9)
  model = create_model(
    c.model, num_classes=10, image_size=8, hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=2
  )
  params = load_params(workdir, model)
  step = jax.jit(step_lib.make_eval_step(supervised(model)))
  with Inputs(c).eval_batches() as batches:
    found = evaluate(step, params, batches)
  assert found['examples'] == metrics['eval/average_examples'] == 100
  assert found['accuracy'] == metrics['eval/average_accuracy']
  assert found['loss'] == pytest.approx(metrics['eval/average_loss'], rel=1e-5)
  assert metrics['eval/loss'] != metrics['eval/average_loss']

  half, resumed = config(digits_dir, average=0.9), tmp_path / 'resumed'
  half.total_steps = 3
  half.schedule = c.schedule = 'steps'  # does not know the last step
  train(half, resumed)
  assert train(c, resumed)['eval/average_loss'] == train(c, tmp_path / 'whole')['eval/average_loss']


def test_fine_tuning_at_a_higher_resolution(pretrained, digits_dir, tmp_path):
  """From a run, with a new head and resized positions; the blocks that are frozen stay."""
  workdir, _ = pretrained
  c = config(
    digits_dir,
    image_size=16,
    init_from=str(workdir),
    new_head=True,
    optimizer='sgd',
    trained_blocks=1,
    weight_decay=0.0,
  )
  train(c, tmp_path / 'run')
  log = (tmp_path / 'run' / 'log.txt').read_text()
  assert (
    'Replaced the head of 10 classes with a new head of 10 classes, initialized to zero.' in log
  )
  assert 'Resized the position embedding from 2x2 patches to a grid of 4x4 patches.' in log
  fields = dict(num_classes=10, hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=2)
  small = load_params(workdir, create_model('ViT-Ti/4', image_size=8, **fields))
  large = load_params(tmp_path / 'run', create_model('ViT-Ti/4', image_size=16, **fields))
  block = lambda params, i: dict(zip(*named_leaves(params['Transformer'][f'encoderblock_{i}'])))
  (first, last), (first_after, last_after) = (
    [block(params, i) for i in range(2)] for params in (small, large)
  )
  assert all((first[name] == first_after[name]).all() for name in first)
  kernels = [name for name in last if name.endswith('kernel')]  # key biases have no gradient
  assert len(kernels) == 6 and all((last[name] != last_after[name]).any() for name in kernels)


def test_the_average_is_on_record_beside_the_parameters(pretrained):
  rows = [json.loads(line) for line in (pretrained[0] / 'metrics.jsonl').read_text().splitlines()]
  steps = lambda name: [r['step'] for r in rows if name in r]
  assert steps('eval/accuracy') == steps('eval/average_accuracy') == [3, 6]
