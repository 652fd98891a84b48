"""Attention with known answers."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.small_vit import small_vit
from vit_jax import create_model, figures
from vit_jax.errors import InputError
from vit_jax.figures.attention import apply_to_attention


@pytest.mark.parametrize(
  'overrides',
  [
    {},
    dict(head='map', registers=2),
    dict(pos_embedding='relative', head='gap'),
    dict(scan=True, remat='full', qkv_bias=False),
  ],
  ids=str,
)
def test_weights_are_those_of_the_model(overrides):
  """The weights equal the softmax of the queries and keys that the model itself computes."""
  model, params, images = small_vit(**overrides)
  matrices, pooling = apply_to_attention(lambda x: x, model, params, images)
  plain = model.clone(scan=False, remat='none')
  _, state = plain.apply(
    {'params': params},
    images,
    capture_intermediates=lambda module, _: module.name in ('query', 'key'),
    mutable='intermediates',
  )
  blocks = [state['intermediates']['Transformer'][f'encoderblock_{i}'] for i in range(2)]
  tables = [params['Transformer'][f'encoderblock_{i}'].get('relative_position') for i in range(2)]
  if model.head == 'map':
    blocks, tables = blocks + [state['intermediates']['MAPHead_0']], tables + [None]
    matrices = matrices + [pooling]
  else:
    assert pooling is None
  assert len(matrices) == len(blocks)
  for weights, block, table in zip(matrices, blocks, tables):
    q, k = (
      np.float64(block['MultiHeadDotProductAttention_0'][name]['__call__'][0])
      for name in ('query', 'key')
    )
    logits = np.einsum('bhlk,bhmk->bhlm', q, k)
    if table:
      offsets = np.arange(q.shape[2]) - np.arange(q.shape[2])[:, None] + q.shape[2] - 1
      logits += np.einsum('bhlk,lmhk->bhlm', q, table['embedding'][offsets])
    expected = np.exp(logits / q.shape[3] ** 0.5)
    np.testing.assert_allclose(weights, expected / expected.sum(-1, keepdims=True), atol=2e-6)


def test_looking_leaves_the_model_as_it_is():
  """Observing attention does not change the output, and leaves no trace in later programs."""
  model, params, images = small_vit(head='map')
  apply = lambda params: model.apply({'params': params}, images)
  before, program = apply(params), str(jax.make_jaxpr(apply)(params))
  outputs = []

  def observe(call, args, kwargs, context):
    result = call(*args, **kwargs)
    if context.module.name == 'head':
      outputs.append(result)
    return result

  with nn.intercept_methods(observe):
    apply_to_attention(lambda x: x, model, params, images)
  np.testing.assert_allclose(outputs[0], before, rtol=1e-5, atol=1e-5)
  assert str(jax.make_jaxpr(apply)(params)) == program


def test_axial_attention_stays_in_its_line():
  """Axial attention as a matrix over all patches is zero across lines, and its rows sum to 1."""
  model, params, images = small_vit(head='gap', attention='axial')
  matrices, _ = apply_to_attention(lambda x: x, model, params, images)
  row, column = np.divmod(np.arange(6), 3)
  assert len(matrices) == 4
  for i, weights in enumerate(matrices):
    assert weights.shape == (2, 2, 6, 6)
    line = (row, column)[i % 2]
    np.testing.assert_array_equal(
      np.asarray(weights > 0), np.broadcast_to(line[:, None] == line, weights.shape)
    )
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
  # Each column attends within itself, with the softmax of the model's own queries and keys.
  _, state = model.apply(
    {'params': params},
    images,
    mutable='intermediates',
    capture_intermediates=lambda module, _: module.name in ('query', 'key'),
  )
  attention = state['intermediates']['Transformer']['encoderblock_1']['column'][
    'MultiHeadDotProductAttention_0'
  ]
  q, k = (attention[name]['__call__'][0] for name in ('query', 'key'))  # (B * w, H, h, K)
  expected = jax.nn.softmax(jnp.einsum('bhlk,bhmk->bhlm', q, k) / q.shape[-1] ** 0.5)
  got = matrices[3].reshape(2, 2, 2, 3, 2, 3)  # (B, H, row, column, row, column)
  for j in range(3):
    np.testing.assert_allclose(got[1, :, :, j, :, j], expected[3 + j], atol=1e-6)


def test_distance_of_uniform_attention():
  """On a line of n patches, the mean of |i - j| is (n**2 - 1) / (3 n)."""
  for n in (2, 7):
    for grid, patch in (((1, n), (99, 4)), ((n, 1), (4, 99))):
      expected = 4 * (n**2 - 1) / (3 * n)
      assert figures.uniform_distance(grid, patch) == pytest.approx(expected, rel=1e-6)
      weights = np.full((2, 3, n, n), 1 / n, np.float32)
      np.testing.assert_allclose(
        figures.attention_distance(weights, grid, patch), expected, rtol=1e-5
      )
  square = (0 + 3 + 4 + 5) / 4  # two by two patches of 3 x 4 pixels each
  assert figures.uniform_distance((2, 2), (3, 4)) == pytest.approx(square)


def test_distance_is_of_patches_alone():
  """The class token and a register get nine tenths of the weight, which do not count."""
  weights = np.zeros((8, 8), np.float32)
  weights[:, 0], weights[:, 7] = 0.5, 0.4
  weights[np.arange(1, 7), np.arange(1, 7)] = 0.1  # each patch looks at itself ...
  weights[1, 1], weights[1, 6] = (0, 0.1)  # ... but 1 at 6, one row and two columns away
  assert figures.attention_distance(weights, (2, 3), (16, 8), 1) == pytest.approx(
    (16**2 + (2 * 8) ** 2) ** 0.5 / 6
  )


def test_rollout_of_the_identity_is_the_identity():
  identity = np.broadcast_to(np.eye(5, dtype=np.float32), (4, 2, 5, 5))
  np.testing.assert_array_equal(figures.rollout(jnp.asarray(identity)), identity[0])


def test_rollout_multiplies_from_the_left():
  """Two layers by hand: ((A2 + I) / 2) ((A1 + I) / 2)."""
  first, second = np.array([[0, 1], [0, 1.0]]), np.array([[1, 0], [1, 0.0]])
  got = figures.rollout(jnp.asarray([[first], [second]]))
  np.testing.assert_allclose(got[0], [[0.5, 0.5], [0.25, 0.75]])


def test_rollout_of_uniform_attention():
  """n layers keep 2**-n of each token for itself and distribute the rest evenly."""
  length, layers = 5, 3
  got = figures.rollout(jnp.full((layers, 1, length, length), 1 / length))
  np.testing.assert_allclose(
    got[0], np.eye(length) / 2**layers + (1 - 2**-layers) / length, rtol=1e-6
  )


@pytest.mark.parametrize('heads', ['mean', 'max'])
@pytest.mark.parametrize(
  'overrides', [{}, dict(head='gap', registers=1), dict(head='map')], ids=str
)
def test_look_equals_numpy(overrides, heads):
  """`look` equals a computation in NumPy from the weights of every head."""
  model, params, images = small_vit(**overrides)
  matrices, pooling = apply_to_attention(lambda x: x, model, params, images)
  views = figures.look(model, params, images, heads=heads)
  first = int(model.head == 'token')
  patches = slice(first, first + 6)
  length = matrices[0].shape[-1]
  through = np.eye(length)
  for weights in matrices:
    joined = getattr(np.asarray(weights, np.float64), heads)(1) + np.eye(length)
    through = joined / joined.sum(-1, keepdims=True) @ through
  if model.head == 'token':
    expected = through[:, 0, patches]
    maps = [w[:, :, 0, patches] for w in matrices]
  else:
    expected = through[:, patches, patches].mean(1)
    maps = [w[:, :, patches, patches].mean(2) for w in matrices]
  if model.head == 'map':
    expected = np.einsum(
      'bn,bnm->bm', getattr(np.asarray(pooling), heads)(1)[:, 0], through[:, patches, patches]
    )
    maps.append(pooling[:, :, 0])
  np.testing.assert_allclose(views.rollout, expected.reshape(2, 2, 3), rtol=1e-4)
  np.testing.assert_allclose(views.maps, np.stack(maps).reshape(-1, 2, 2, 2, 3), rtol=1e-4)
  expected = figures.attention_distance(jnp.stack(matrices), (2, 3), (4, 4), first)
  np.testing.assert_allclose(views.distance, expected, rtol=1e-5)


def test_unknown_heads():
  with pytest.raises(InputError, match="^Unknown heads 'min'. Available: mean, max[.]"):
    figures.look(*small_vit(), heads='min')


def test_a_resnet_has_no_attention():
  model = create_model('BiT-R50x1', num_classes=2, image_size=32)
  with pytest.raises(InputError, match='^A BiT ResNet has no attention[.]'):
    figures.look(model, {}, jnp.zeros((1, 32, 32, 3)))
