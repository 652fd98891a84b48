"""Masked patch prediction: corruption, targets and learning. Masked pixels do not leak."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import create_model, load_params
from vit_jax.config.fields import default_config
from vit_jax.data.decode import decode_image
from vit_jax.data.open_source import open_source
from vit_jax.errors import InputError
from vit_jax.inference.load_checkpoint import load_checkpoint
from vit_jax.models import masked_patches as mpp
from vit_jax.models.pixels import to_input
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.pmap import PmapPartitioner
from vit_jax.training import optim
from vit_jax.training import step as step_lib
from vit_jax.training.loop import train

FIELDS = dict(hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=2)
LARGER = dict(hidden_dim=64, mlp_dim=128, num_heads=4)
BATCH = 16


def vit(num_classes=0, **fields):
  return create_model('ViT-Ti/4', **dict(num_classes=num_classes, image_size=16, **FIELDS) | fields)


def pictures(seed=0, size=BATCH, side=16):
  return np.random.default_rng(seed).integers(0, 256, (size, side, side, 3), dtype=np.uint8)


def keys(count, seed=0):
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(count))


@pytest.mark.parametrize('rate', [0.5, 0.15])
def test_corruption_statistics(rate):
  count, patches = 3000, 20
  corrupted, source = map(np.asarray, mpp.corruption(keys(count), patches, rate))
  number = round(rate * patches)
  assert (corrupted.sum(1) == number).all()
  place = np.arange(patches)
  assert (source[~corrupted] == np.broadcast_to(place, source.shape)[~corrupted]).all()
  total = number * count
  masked, kept = (source == -1).sum() / total, (corrupted & (source == place)).sum() / total
  for share, want in ((masked, 0.8), (kept, 0.1), (1 - masked - kept, 0.1)):
    assert abs(share - want) < 4 * math.sqrt(want * (1 - want) / total)
  assert np.abs(corrupted.mean(0) - rate).max() < 4 * math.sqrt(rate * (1 - rate) / count)
  others = ((source - place) % patches)[corrupted & (source >= 0) & (source != place)]
  share = np.bincount(others, minlength=patches)[1:] / len(others)  # of each other patch
  assert np.abs(share - 1 / 19).max() < 5 * math.sqrt(1 / 19 / len(others))


def test_an_image_is_corrupted_by_its_own_key():
  whole, part = mpp.corruption(keys(8), 20, 0.5), mpp.corruption(keys(8)[3:5], 20, 0.5)
  for a, b in zip(whole, part):
    np.testing.assert_array_equal(a[3:5], b)


@pytest.mark.parametrize('target', mpp.TARGETS)
def test_targets_are_those_of_a_loop(target):
  images, stride = pictures(size=3, side=24), 8
  targets = np.asarray(mpp.make_targets(jnp.asarray(images), stride, target))
  for b, image in enumerate(images):
    for n in range(9):
      row, column = divmod(n, 3)
      patch = image[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].astype(float)
      if target == 'patch':
        np.testing.assert_allclose(targets[b, n], patch.reshape(-1) / 127.5 - 1, atol=1e-6)
        continue
      side = 8 if target == 'mean_color' else 2
      want = []
      for y in range(0, 8, side):
        for x in range(0, 8, side):
          red, green, blue = np.floor(patch[y : y + side, x : x + side].mean((0, 1)) / 256 * 8)
          want.append(red * 64 + green * 8 + blue)
      np.testing.assert_array_equal(targets[b, n], want)


def setup(target='mean_color', **fields):
  model = mpp.make_model(vit(**fields), target, 0.5)
  params = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  head = jax.random.normal(jax.random.key(1), params['patch_head']['kernel'].shape) * 0.3
  return model, params | {'patch_head': params['patch_head'] | {'kernel': head}}


@pytest.mark.parametrize(
  'target, shape', [('mean_color', (1, 512)), ('small_patch', (16, 512)), ('patch', (48,))]
)
def test_the_loss_is_of_corrupted_patches_alone(target, shape):
  model, params = setup(target)
  images = pictures()
  batch = {'image': jnp.asarray(images), 'example': jnp.arange(BATCH)}
  key = jax.random.key(5)
  losses, correct = mpp.make_objective(model, jax.random.key(0))(params, batch, key)
  corrupted, source = mpp.corruption(
    jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 0), jnp.arange(BATCH)), 16, 0.5
  )
  predictions = model.apply({'params': params}, to_input(batch['image']), source=source)
  assert predictions.shape == (BATCH, 16, *shape)
  predictions = np.asarray(predictions, np.float64)
  targets = np.asarray(mpp.make_targets(batch['image'], 4, target))
  for b in range(BATCH):
    which = np.flatnonzero(corrupted[b])
    assert len(which) == 8
    if target == 'patch':
      want = np.mean([(predictions[b, n] - targets[b, n]) ** 2 for n in which])
    else:
      log_sum = np.log(np.exp(predictions[b]).sum(-1))
      want = np.mean(
        [
          log_sum[n, c] - predictions[b, n, c, targets[b, n, c]]
          for n in which
          for c in range(shape[0])
        ]
      )
      right = np.mean(
        [predictions[b, n, c].argmax() == targets[b, n, c] for n in which for c in range(shape[0])]
      )
      np.testing.assert_allclose(correct[b], right, atol=1e-6)
    np.testing.assert_allclose(losses[b], want, rtol=1e-5)


def test_what_is_masked_reaches_no_output():
  """Outputs do not depend on pixels under [mask], unless their patch replaces another one."""
  model, params = setup()
  corrupted, source = map(np.asarray, mpp.corruption(keys(BATCH), 16, 0.5))
  images = pictures()
  hidden = np.array(
    [[source[b, n] == -1 and n not in source[b] for n in range(16)] for b in range(BATCH)]
  )
  assert hidden.sum() > 60
  pixels = hidden.reshape(BATCH, 4, 1, 4, 1, 1).repeat(4, 2).repeat(4, 4).reshape(BATCH, 16, 16, 1)
  apply = jax.jit(lambda x: model.apply({'params': params}, to_input(x), source=source))
  same, seen = (np.where(mask, pictures(1), images) for mask in (pixels, ~pixels))
  np.testing.assert_array_equal(apply(images), apply(same))
  assert (apply(images) != apply(seen)).any()


def test_without_corruption_it_is_the_vision_transformer():
  model, params = setup(head='gap')
  images = to_input(jnp.asarray(pictures()))
  body = {k: v for k, v in params.items() if k not in mpp.ADDED}
  want = vit(head='gap').apply({'params': body}, images)  # head='gap': the mean over the patches
  kernel = jnp.eye(16, 512)
  probe = params | {'patch_head': {'kernel': kernel, 'bias': jnp.zeros(512)}}
  mean = model.apply({'params': probe}, images)[:, :, 0, :16].mean(1)
  np.testing.assert_allclose(mean, want, atol=1e-5)
  assert set(params) - set(body) == set(mpp.ADDED)


@pytest.mark.parametrize(
  'fields',
  [
    {},
    pytest.param(
      {'head': 'gap', 'registers': 2, 'pos_embedding': 'relative'}, marks=pytest.mark.slow
    ),
  ],
)
def test_every_layout_gives_the_same_steps(fields):
  """Compare one device, eight with pmap, and a mesh with accumulation, all with dropout."""
  model = mpp.make_model(vit(dropout=0.1, stochastic_depth=0.2, **fields), 'mean_color', 0.5)
  schedule = lambda _: 1e-2
  optimizer = optim.make_optimizer(schedule, optim.OptimizerConfig())
  make = lambda accumulate: step_lib.make_train_step(
    mpp.make_objective(model, jax.random.key(3)),
    optimizer,
    schedule,
    dropout_key=jax.random.key(1),
    accumulate=accumulate,
  )
  init = lambda: step_lib.init_state(model, optimizer, jax.random.key(0))
  batch = lambda k: {
    'image': pictures(k),
    'label': np.zeros(BATCH, np.int32),
    'mask': np.ones(BATCH, bool),
    'example': np.arange(BATCH, dtype=np.int32),
  }
  runs = []
  for partitioner, accumulate in (
    (None, 1),
    (PmapPartitioner(BATCH), 1),
    (MeshPartitioner(BATCH, 2, (2, 4)), 2),
  ):
    step = jax.jit(make(1)) if partitioner is None else partitioner.train_step(make(accumulate))
    state, losses = init() if partitioner is None else partitioner.init(init), []
    for k in range(3):
      state, metrics = step(state, batch(k))
      losses.append([float(metrics[m]) for m in ('loss', 'accuracy', 'grad_norm')])
    runs.append(losses)
  for other in runs[1:]:
    np.testing.assert_allclose(other, runs[0], rtol=1e-5, atol=1.5 / (BATCH * 8))  # one color
    np.testing.assert_allclose(np.array(other)[:, ::2], np.array(runs[0])[:, ::2], rtol=1e-5)


def config(data_dir, **fields):
  c = default_config()
  c.update(FIELDS)
  c.model, c.image_size, c.dtype, c.pretext = 'ViT-Ti/2', 8, 'float32', 'masked_patches'
  c.dataset, c.data_dir, c.preset, c.resize_size = 'digits', data_dir, 'bit', 8
  c.batch_size, c.total_steps, c.warmup_steps, c.lr, c.weight_decay = 64, 4, 0, 2e-3, 0.0
  c.eval_every, c.save_every, c.fewshot, c.fewshot_shots = 0, 0, 'digits', (5,)
  c.update(fields)
  return c


@pytest.fixture(scope='module')
def pretrained(digits_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('mpp') / 'run'
  return workdir, train(config(digits_dir, representation_size=8), workdir)


@pytest.mark.slow
def test_it_learns_real_images(digits_dir, tmp_path):
  """It beats the commonest color at every position, which is the best guess without the image."""
  images = np.stack([decode_image(x['image']) for x in open_source('digits', 'test', digits_dir)])
  colors = np.asarray(mpp.make_targets(jnp.asarray(images), 2, 'mean_color'))[..., 0]
  commonest = np.mean([np.bincount(c).max() / len(c) for c in colors.T])
  metrics = train(config(digits_dir, total_steps=2500, log_every=500, **LARGER), tmp_path / 'run')
  assert metrics['eval/accuracy'] > commonest + 0.04
  assert metrics['eval/examples'] == 360
  assert metrics['fewshot/digits_5shot'] > 0.3  # chance is .1


def test_fine_tuning_starts_from_its_checkpoint(pretrained, digits_dir, tmp_path):
  workdir, _ = pretrained
  model = create_model('ViT-Ti/2', num_classes=10, image_size=8, **FIELDS)
  params = load_params(workdir, model)
  assert not set(mpp.ADDED) & set(params) and not params['head']['kernel'].any()
  train(
    config(digits_dir, pretext='', init_from=str(workdir), total_steps=2, fewshot=''),
    tmp_path / 'run',
  )
  log = (tmp_path / 'run' / 'log.txt').read_text()
  assert 'Dropped the arrays that only masked patch prediction uses.' in log
  assert 'Added a new head of 10 classes, initialized to zero.' in log


def test_tools_open_its_workdir(pretrained, caplog):
  """They open it as a model without a head, whatever head the config has for labels."""
  loaded, _ = load_checkpoint(str(pretrained[0]), dtype='float32')
  assert loaded.model.num_classes == 0 and not loaded.model.representation_size
  assert 'all zeros' not in caplog.text


@pytest.mark.parametrize(
  'model, target, rate, words',
  [
    (vit(), 'color', 0.5, "Unknown target of masked patches 'color'. "),
    (
      vit(patch_bias=False),
      'mean_color',
      0.01,
      'A rate of 0.01 corrupts 0 of 16 patches. Use a rate between 0.062 and 1.',
    ),
    (vit(), 'mean_color', 1.1, 'A rate of 1.1 corrupts 18 of 16 patches. Use'),
    (vit(head='map'), 'mean_color', 0.5, "does not train the pooling of head='map'"),
    (create_model('BiT-R50x1', num_classes=0, image_size=32), 'mean_color', 0.5, 'is a ResNet'),
    (
      create_model('ViT-Ti/14', num_classes=0, image_size=28),
      'small_patch',
      0.5,
      'their side of 14 pixels is not a multiple of 4',
    ),
  ],
)
def test_what_cannot_be(model, target, rate, words):
  with pytest.raises(InputError, match=words):
    mpp.make_model(model, target, rate)
