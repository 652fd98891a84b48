"""Filters and position embeddings with known answers."""

import numpy as np
import pytest

from tests.helpers.small_vit import small_vit
from vit_jax import create_model, figures
from vit_jax.errors import InputError
from vit_jax.models.position import sincos2d


def test_components_of_a_constructed_kernel():
  """The components are the three orthogonal patterns of the kernel, in order, with their sign."""
  rng = np.random.default_rng(0)
  patterns = np.linalg.qr(rng.normal(size=(48, 3)))[0].T  # (3, 48)
  patterns *= np.sign(np.take_along_axis(patterns, np.abs(patterns).argmax(1)[:, None], 1))
  signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # uncorrelated
  mixed = signs * [3, 2, 1] @ patterns + 7  # the mean filter is subtracted
  filters = figures.principal_filters(mixed.T.reshape(4, 4, 3, 4).astype(np.float32))
  np.testing.assert_allclose(filters.components[:3].reshape(3, 48), patterns, atol=1e-5)
  np.testing.assert_allclose(filters.variance, [9 / 14, 4 / 14, 1 / 14, 0], atol=1e-6)
  assert figures.principal_filters(rng.normal(size=(4, 4, 3, 50))).components.shape == (28, 4, 4, 3)


def test_the_kernel_that_sees_pixels():
  params = small_vit()[1]
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
  model, params, _ = small_vit(head=head)
  learned = params['Transformer']['posembed_input']['pos_embedding']
  np.testing.assert_array_equal(
    figures.position_embedding(model, params), learned[0, prefix:].reshape(2, 3, 16)
  )
  model, params, _ = small_vit(head=head, pos_embedding='learned2d', pos_embedding_at='every')
  own = params['Transformer']['encoderblock_0']['posembed_input']
  got = figures.position_embedding(model, params)
  np.testing.assert_array_equal(got[1, 2], np.concatenate([own['rows'][1], own['columns'][2]]))
  model, params, _ = small_vit(head=head, pos_embedding='sincos2d')
  np.testing.assert_array_equal(
    figures.position_embedding(model, params), sincos2d((2, 3), 16).reshape(2, 3, 16)
  )


@pytest.mark.parametrize(
  'kind, words',
  [
    ('none', "The model has no position embedding (pos_embedding='none')."),
    ('relative', 'The model embeds relative positions, so no position has its own embedding.'),
  ],
)
def test_no_position_embedding(kind, words):
  with pytest.raises(InputError) as e:
    figures.position_embedding(*small_vit(pos_embedding=kind)[:2])
  assert str(e.value) == words


def test_a_resnet_has_no_position_embedding():
  model = create_model('BiT-R50x1', num_classes=2, image_size=32)
  with pytest.raises(InputError, match='^A BiT ResNet has no position embedding.$'):
    figures.position_embedding(model, {})
