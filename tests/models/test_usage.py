import pytest

from vit_jax import create_model
from vit_jax.models.usage import Usage


def test_defaults_are_those_of_the_published_fine_tuned_models():
  usage = Usage().updated()
  assert (usage.preset, usage.resize_size, usage.eval_filter) == ('bit', None, 'bilinear')
  assert (usage.loss, usage.fast_dct, usage.class_names) == ('softmax', False, None)


@pytest.mark.parametrize(
  'given, expected',
  [
    ({}, ('inception', 40, 'bicubic', 'sigmoid')),
    ({'preset': 'inception'}, ('inception', 40, 'bicubic', 'sigmoid')),
    ({'preset': 'squash'}, ('squash', None, 'bilinear', 'sigmoid')),  # has another size and filter
    ({'preset': 'bit', 'eval_filter': 'area'}, ('bit', None, 'area', 'sigmoid')),
    ({'resize_size': 50, 'loss': 'softmax'}, ('inception', 50, 'bicubic', 'softmax')),
  ],
)
def test_what_is_given_wins(given, expected):
  usage = Usage('inception', 40, 'bicubic', loss='sigmoid').updated(**given)
  assert (usage.preset, usage.resize_size, usage.eval_filter, usage.loss) == expected


def test_a_preset_alone_has_the_filter_of_the_published_code():
  assert Usage(preset='inception').updated().eval_filter == 'area'
  assert Usage().updated(preset='inception').eval_filter == 'area'
  assert Usage(preset='squash').updated().eval_filter == 'bilinear'


def test_names():
  assert Usage().names(3) is None
  assert Usage(class_names=('a', 'b')).names(2) == ['a', 'b']
  assert Usage(class_names=('a', 'b')).names(3) == ['a', 'b', 'class 2']
  assert Usage(class_names=('a', 'b')).names(1) is None  # they are of another head


def test_models_that_compute_the_same_are_equal():
  for name in ('ViT-Ti/8', 'BiT-R50x1'):
    model = create_model(name, num_classes=2, image_size=32)
    used = model.clone(usage=Usage(preset='bit'))
    assert used == model and hash(used) == hash(model)
    assert model.usage == Usage() and used.usage.preset == 'bit'
