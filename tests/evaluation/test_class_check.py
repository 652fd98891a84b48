"""A model must have the classes of a dataset, in the same order."""

from types import SimpleNamespace

import pytest

from vit_jax.errors import InputError
from vit_jax.evaluation.class_check import check_classes
from vit_jax.pretrained.load import Loaded


def check(model_classes, data_classes, model_names=None, data_names=None, trained_on_it=False):
  check_classes(
    Loaded(SimpleNamespace(num_classes=model_classes), None, model_names),
    SimpleNamespace(num_classes=data_classes, class_names=data_names),
    checkpoint='x.npz',
    dataset='pets',
    trained_on_it=trained_on_it,
  )


@pytest.mark.parametrize('classes, words', [(3, 'has 3 classes'), (0, 'has no head')])
def test_too_few_classes(classes, words):
  message = f'^The model of x.npz {words}, but pets has 4 classes. Fine-tune it on pets first.$'
  with pytest.raises(InputError, match=message):
    check(classes, 4)


def test_more_classes(caplog):
  check(1000, 4, trained_on_it=True)
  assert not caplog.messages
  check(1000, 4)
  assert caplog.messages == [
    'The model has 1,000 classes. The first 4 are taken to be those of pets.'
  ]


def test_another_order(caplog):
  check(3, 3, ['a', 'b', 'b'], ['a', 'b', 'c'])  # the first b counts
  check(3, 3, None, ['a', 'b', 'c'])
  check(3, 3, ['x', 'y', 'z'], ['a', 'b', 'c'])
  assert not caplog.messages
  check(3, 3, ['c', 'a', 'b'], ['a', 'b', 'c'])
  assert caplog.messages == [
    "Class 'a' is number 1 of the model, but number 0 of pets. The accuracy may be meaningless."
  ]
