import numpy as np
import pytest

from tests.helpers.small_vit import small_vit
from vit_jax.errors import InputError
from vit_jax.figures.draw_model import (
  FigureOptions,
  attention_layer_names,
  draw_model,
  look_in_batches,
)


def make_images(count):
  rng = np.random.default_rng(0)
  return list(rng.integers(0, 256, (count, 8, 12, 3), dtype=np.uint8))


def test_batches_do_not_matter():
  """A padded last batch, or fewer images than a batch, give the same as one large batch."""
  model, params, _ = small_vit(head='gap')
  look = lambda *options: look_in_batches(
    model, params, make_images(3), FigureOptions(options[0], options[1], batch_size=options[2])
  )
  images, views = look(3, 4, 2)
  at_once = look(128, 4, 8)
  np.testing.assert_array_equal(images, at_once[0])
  assert images.shape == (3, 8, 12, 3)
  for got, expected in zip(views, at_once[1]):
    np.testing.assert_allclose(got, expected, rtol=1e-5)
  fewer, views = look(2, 1, 8)
  np.testing.assert_array_equal(fewer, images[:1])
  assert [x.shape for x in views] == [(2, 2, 2), (1, 2, 3), (2, 1, 2, 2, 3)]


def test_names_of_attention_layers():
  names = lambda **overrides: attention_layer_names(small_vit(num_layers=1, **overrides)[0])
  assert names() == ['block 0, from the class token']
  assert names(head='map') == ['block 0, mean over all patches', 'the MAP head']
  assert names(head='gap', attention='axial') == [
    'block 0, along rows, mean over all patches',
    'block 0, along columns, mean over all patches',
  ]


def test_without_images_there_is_no_attention():
  model, params, _ = small_vit()
  figures = dict(draw_model(model, params, []))
  assert list(figures) == ['filters', 'position_similarity', 'attention distance, rollout and maps']
  assert str(figures['attention distance, rollout and maps']) == 'There are no images to look at.'


def test_a_layer_that_does_not_exist():
  model, params, _ = small_vit()
  with pytest.raises(
    InputError, match='^There is no attention layer 2. The model has layers 0 to 1.$'
  ):
    list(draw_model(model, params, make_images(1), FigureOptions(layer=2)))
