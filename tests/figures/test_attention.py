"""Figures on cases with known answers."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import create_model, figures
from vit_jax.errors import InputError
from vit_jax.figures import draw
from vit_jax.figures.attention import apply_to_attention
from vit_jax.models.position import sincos2d

TINY = dict(hidden_dim=16, mlp_dim=16, num_heads=2, num_layers=2)


def make(seed=0, **overrides):
  """A model on a grid of 2 x 3 patches, all parameters random, two images."""
  model = create_model('ViT-Ti/4', num_classes=5, image_size=(8, 12), **TINY | overrides)
  rng = np.random.default_rng(seed)
  images = jnp.asarray(rng.uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32))
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), shapes)
  return model, params, images


# Weights


def test_components_of_a_constructed_kernel():
  """Three orthogonal patterns with known variances come back, in order, with their sign."""
  rng = np.random.default_rng(0)
  patterns = np.linalg.qr(rng.normal(size=(48, 3)))[0].T  # (3, 48)
  patterns *= np.sign(np.take_along_axis(patterns, np.abs(patterns).argmax(1)[:, None], 1))
  signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # uncorrelated
  mixed = signs * [3, 2, 1] @ patterns + 7  # a mean is taken off
  filters = figures.principal_filters(mixed.T.reshape(4, 4, 3, 4).astype(np.float32))
  np.testing.assert_allclose(filters.components[:3].reshape(3, 48), patterns, atol=1e-5)
  np.testing.assert_allclose(filters.variance, [9 / 14, 4 / 14, 1 / 14, 0], atol=1e-6)
  assert figures.principal_filters(rng.normal(size=(4, 4, 3, 50))).components.shape == (28, 4, 4, 3)


def test_the_kernel_that_sees_pixels():
  params = make()[1]
  assert figures.rgb_kernel(params) is params['embedding']['kernel']
  kernel = np.random.default_rng(0).normal(3, 2, (7, 7, 3, 8)).astype(np.float32)
  for path in [('conv_root',), ('resnet', 'root_block', 'standardized_conv2d')]:
    tree = {'kernel': kernel}
    for key in reversed(path):
      tree = {key: tree}
    got = figures.rgb_kernel(tree | {'embedding': {'kernel': np.ones((1, 1, 9, 8))}})
    np.testing.assert_allclose(got.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(got.std((0, 1, 2)), 1, atol=1e-4)


def test_similarity_of_sines_and_cosines():
  """cos(a)cos(b) + sin(a)sin(b) = cos(a - b): it depends on the offset alone."""
  h, w, d = 3, 5, 16
  got = figures.position_similarity(sincos2d((h, w), d).reshape(h, w, d))
  frequencies = 10_000.0 ** -np.linspace(0, 1, d // 4)
  of_offset = lambda n: np.cos(
    np.multiply.outer(np.arange(n)[:, None] - np.arange(n), frequencies)
  ).mean(-1)
  expected = (of_offset(h)[:, None, :, None] + of_offset(w)[None, :, None, :]) / 2
  np.testing.assert_allclose(got, expected, atol=1e-6)


def test_similarity_of_zeros_is_zero():
  embedding = np.zeros((1, 2, 4))
  embedding[0, 1, 2] = -3
  np.testing.assert_array_equal(figures.position_similarity(embedding)[0, :, 0], [[0, 0], [0, 1]])


@pytest.mark.parametrize('head', ['token', 'gap'])
def test_position_embeddings_of_each_kind(head):
  prefix = int(head == 'token')
  model, params, _ = make(head=head)
  learned = params['Transformer']['posembed_input']['pos_embedding']
  np.testing.assert_array_equal(
    figures.position_embedding(model, params), learned[0, prefix:].reshape(2, 3, 16)
  )
  model, params, _ = make(head=head, pos_embedding='learned2d', pos_embedding_at='every')
  own = params['Transformer']['encoderblock_0']['posembed_input']
  got = figures.position_embedding(model, params)
  np.testing.assert_array_equal(got[1, 2], np.concatenate([own['rows'][1], own['columns'][2]]))
  model, params, _ = make(head=head, pos_embedding='sincos2d')
  np.testing.assert_array_equal(
    figures.position_embedding(model, params), sincos2d((2, 3), 16).reshape(2, 3, 16)
  )


@pytest.mark.parametrize(
  'kind, words',
  [
    ('none', "the model has no position embedding (pos_embedding='none')"),
    ('relative', 'the model has embeddings of relative positions, not of each position'),
  ],
)
def test_no_position_embedding(kind, words):
  with pytest.raises(InputError) as e:
    figures.position_embedding(*make(pos_embedding=kind)[:2])
  assert str(e.value) == words


def test_a_resnet_has_neither():
  model = create_model('BiT-R50x1', num_classes=2, image_size=32)
  with pytest.raises(InputError, match='a BiT ResNet has no position embedding'):
    figures.position_embedding(model, {})
  with pytest.raises(InputError, match='a BiT ResNet has no attention'):
    figures.look(model, {}, jnp.zeros((1, 32, 32, 3)))


# Attention


@pytest.mark.parametrize(
  'overrides',
  [
    dict(),
    dict(head='map', registers=2),
    dict(pos_embedding='relative', head='gap'),
    dict(scan=True, remat='full', qkv_bias=False),
  ],
  ids=str,
)
def test_weights_are_those_of_the_model(overrides):
  """They equal the softmax of the queries and keys that the model itself computed."""
  model, params, images = make(**overrides)
  found, pooling = apply_to_attention(lambda x: x, model, params, images)
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
    found = found + [pooling]
  else:
    assert pooling is None
  assert len(found) == len(blocks)
  for weights, block, table in zip(found, blocks, tables):
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
  """The output under observation is the same, and the program without it has nothing more."""
  model, params, images = make(head='map')
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
  """The block's rows and columns as one matrix over all patches: zero elsewhere, rows sum to 1."""
  model, params, images = make(head='gap', attention='axial')
  found, _ = apply_to_attention(lambda x: x, model, params, images)
  row, column = np.divmod(np.arange(6), 3)
  assert len(found) == 4
  for i, weights in enumerate(found):
    assert weights.shape == (2, 2, 6, 6)
    line = (row, column)[i % 2]
    np.testing.assert_array_equal(
      np.asarray(weights > 0), np.broadcast_to(line[:, None] == line, weights.shape)
    )
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
  # Patches of one row see the same mean only if their queries are the same: not here.
  _, state = model.apply(
    {'params': params},
    images,
    mutable='intermediates',
    capture_intermediates=lambda module, _: module.name in ('query', 'key'),
  )
  of = state['intermediates']['Transformer']['encoderblock_1']['column'][
    'MultiHeadDotProductAttention_0'
  ]
  q, k = (of[name]['__call__'][0] for name in ('query', 'key'))  # (B * w, H, h, K)
  expected = jax.nn.softmax(jnp.einsum('bhlk,bhmk->bhlm', q, k) / q.shape[-1] ** 0.5)
  got = found[3].reshape(2, 2, 2, 3, 2, 3)  # (B, H, row, column, row, column)
  for j in range(3):
    np.testing.assert_allclose(got[1, :, :, j, :, j], expected[3 + j], atol=1e-6)


def test_distance_of_uniform_attention():
  """On a line of n patches the mean of |i - j| is (n**2 - 1) / (3 n)."""
  for n in (2, 7):
    for grid, patch in (((1, n), (99, 4)), ((n, 1), (4, 99))):
      expected = 4 * (n**2 - 1) / (3 * n)
      assert figures.uniform_distance(grid, patch) == pytest.approx(expected, rel=1e-6)
      weights = np.full((2, 3, n, n), 1 / n, np.float32)
      np.testing.assert_allclose(
        figures.attention_distance(weights, grid, patch), expected, rtol=1e-5
      )
  square = (0 + 3 + 4 + 5) / 4  # of two by two patches, 3 x 4 pixels each
  assert figures.uniform_distance((2, 2), (3, 4)) == pytest.approx(square)


def test_distance_is_of_patches_alone():
  """To the class token and a register goes nine tenths; one patch looks at its neighbour."""
  weights = np.zeros((8, 8), np.float32)
  weights[:, 0], weights[:, 7] = 0.5, 0.4
  weights[np.arange(1, 7), np.arange(1, 7)] = 0.1  # each at itself ...
  weights[1, 1], weights[1, 6] = 0, 0.1  # ... but the first at the last, a row and 2 columns away
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
  """n layers keep 2**-n of each token for itself and spread the rest evenly."""
  length, layers = 5, 3
  got = figures.rollout(jnp.full((layers, 1, length, length), 1 / length))
  np.testing.assert_allclose(
    got[0], np.eye(length) / 2**layers + (1 - 2**-layers) / length, rtol=1e-6
  )


@pytest.mark.parametrize('heads', ['mean', 'max'])
@pytest.mark.parametrize(
  'overrides', [dict(), dict(head='gap', registers=1), dict(head='map')], ids=str
)
def test_what_the_output_sees(overrides, heads):
  """look joins its parts: by NumPy from the weights of every head."""
  model, params, images = make(**overrides)
  found, pooling = apply_to_attention(lambda x: x, model, params, images)
  views = figures.look(model, params, images, heads=heads)
  first = int(model.head == 'token')
  patches = slice(first, first + 6)
  length = found[0].shape[-1]
  through = np.eye(length)
  for weights in found:
    joined = getattr(np.asarray(weights, np.float64), heads)(1) + np.eye(length)
    through = joined / joined.sum(-1, keepdims=True) @ through
  if model.head == 'token':
    expected = through[:, 0, patches]
    maps = [w[:, :, 0, patches] for w in found]
  else:
    expected = through[:, patches, patches].mean(1)
    maps = [w[:, :, patches, patches].mean(2) for w in found]
  if model.head == 'map':
    expected = np.einsum(
      'bn,bnm->bm', getattr(np.asarray(pooling), heads)(1)[:, 0], through[:, patches, patches]
    )
    maps.append(pooling[:, :, 0])
  np.testing.assert_allclose(views.rollout, expected.reshape(2, 2, 3), rtol=1e-4)
  np.testing.assert_allclose(views.maps, np.stack(maps).reshape(-1, 2, 2, 2, 3), rtol=1e-4)
  expected = figures.attention_distance(jnp.stack(found), (2, 3), (4, 4), first)
  np.testing.assert_allclose(views.distance, expected, rtol=1e-5)


def test_unknown_heads():
  with pytest.raises(InputError, match="unknown heads 'min'; there are mean, max"):
    figures.look(*make(), heads='min')


# Pictures


def test_pictures_show_the_numbers():
  """What is drawn are the arrays that went in."""
  rng = np.random.default_rng(0)
  similarity = figures.position_similarity(rng.normal(size=(2, 3, 8)))
  canvas = draw.draw_position_similarity(similarity).axes[0].images[0].get_array()
  assert canvas.shape == (2 * 2 + 1, 3 * 3 + 2)
  np.testing.assert_array_equal(canvas[3:, 4:7], similarity[1, 1])
  many = draw.draw_position_similarity(np.ones((37, 20, 37, 20)))
  assert [int(t.get_text()) for t in many.axes[0].get_yticklabels()] == [1, 10, 19, 28, 37]
  assert [int(t.get_text()) for t in many.axes[0].get_xticklabels()] == [
    1,
    3,
    6,
    8,
    11,
    13,
    15,
    18,
    20,
  ]
  base = draw.draw_position_similarity(np.ones((14, 14, 14, 14)))
  assert len(base.axes[0].get_yticklabels()) == 14

  distance = rng.uniform(1, 9, (3, 4))
  lines = draw.draw_attention_distance(distance, 5.0, (8, 12), 1).axes[0].lines
  np.testing.assert_array_equal(lines[0].get_ydata(), [5, 5])
  np.testing.assert_array_equal(
    lines[1].get_xydata(), np.stack([np.repeat(range(3), 4), distance.ravel()], 1)
  )
  filters = figures.principal_filters(rng.normal(size=(2, 2, 3, 9)), 9)
  shown = draw.draw_filters(filters).axes[3].images[0].get_array()
  assert np.abs(shown - 0.5).max() == pytest.approx(0.5)
  np.testing.assert_allclose(
    shown - 0.5, filters.components[3] * (0.5 / np.abs(filters.components[3]).max())
  )


def test_overlay_is_yellow_where_the_map_is_largest():
  image = np.full((4, 8, 3), 200, np.uint8)
  got = draw.overlay(image, jnp.array([[0.2, 0.4]]))
  blue, yellow = np.array([68, 1, 84]), np.array([253, 231, 37])  # the ends of viridis
  np.testing.assert_allclose(got[:, 0], np.tile(0.6 * blue + 0.4 * 200, (4, 1)), atol=1)
  np.testing.assert_allclose(got[:, -1], np.tile(0.6 * yellow + 0.4 * 200, (4, 1)), atol=1)
  np.testing.assert_allclose(draw.overlay(image, np.ones((2, 2)))[0, 0], 0.6 * yellow + 80, atol=1)


def test_one_patch_does_not_hide_all_others():
  weights = np.linspace(1, 2, 100).reshape(10, 10)
  weights[5, 5] = 1000.0
  got = draw.overlay(np.zeros((10, 10, 3), np.uint8), weights)
  np.testing.assert_allclose(got[0, 0], 0.6 * np.array([68, 1, 84]), atol=1)
  np.testing.assert_allclose(got[5, 5], 0.6 * np.array([253, 231, 37]), atol=1)
  assert got[4, 5, 1] > 50 > 2 * got[0, 0, 1]  # halfway: green


def test_curves_of_several_runs():
  a = {'train/loss': (np.arange(3), np.arange(3.0)), 'train/goodput': (np.arange(3), np.ones(3))}
  b = {'train/loss': (np.arange(2), np.ones(2)), 'eval/accuracy': (np.arange(2), np.zeros(2))}
  figure = draw.draw_curves({'a': a, 'b': b})
  assert [axes.get_title() for axes in figure.axes] == [
    'loss, training batch',
    'accuracy, evaluation',
  ]
  assert [len(axes.lines) for axes in figure.axes] == [2, 1]
  assert [t.get_text() for t in figure.legends[0].get_texts()] == ['a', 'b']
  with pytest.raises(InputError, match="no run has the metric 'loss'; there are eval/accuracy, tr"):
    draw.draw_curves({'a': a, 'b': b}, ['loss'])


def test_no_picture_is_too_large(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
  draw.save(draw.draw_rollout(noise, np.ones((4, 2, 2))), tmp_path / 'noise.png')
  assert 50_000 < (tmp_path / 'noise.png').stat().st_size < 300_000
  draw.save(draw.draw_rollout(noise[:1], np.ones((1, 2, 2))), tmp_path / 'x.png', 30_000)
  assert (tmp_path / 'x.png').stat().st_size < 30_000
