"""A model must have the classes of a dataset, in the same order."""

from types import SimpleNamespace

import pytest

from vit_jax.data.class_names import imagenet_names
from vit_jax.errors import InputError
from vit_jax.evaluation.class_check import match_classes
from vit_jax.pretrained.load import Loaded


def check(
  model_classes, data_classes, model_names=None, data_names=None, trained_on_it=False, **options
):
  order = match_classes(
    Loaded(SimpleNamespace(num_classes=model_classes), None, model_names),
    SimpleNamespace(num_classes=data_classes, class_names=data_names),
    checkpoint='x.npz',
    dataset='pets',
    trained_on_it=trained_on_it,
    remedy='Rename one.',
    **options,
  )
  return None if order is None else order.tolist()


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


LETTERS = ['a', 'b', 'c']
NOTE = 'Some classes of pets have another number in the model. They are matched by name.'


@pytest.mark.parametrize(
  'model, data, order',
  [
    (LETTERS, LETTERS, None),
    ([*LETTERS, 'd'], LETTERS, None),  # more classes, but known ones
    (['c', 'a', 'b'], LETTERS, [1, 2, 0]),
    (['x', 'c', 'b', 'a', 'y'], LETTERS, [3, 2, 1, 0, 4]),
    (['Great_White-Shark', 'B'], ['b', 'great white  shark'], [1, 0]),
    (['0', '1', '2', '10'], ['0', '1', '10'], [0, 1, 3, 2]),
    (['LABEL_0', 'LABEL_1', 'LABEL_2'], LETTERS, None),  # no names
    (LETTERS, ['0', '1', '2'], None),
    (None, LETTERS, None),
    (LETTERS, None, None),
  ],
)
def test_classes_are_matched_by_name(caplog, model, data, order):
  count = len(model or data)
  assert check(count, len(data or model), model, data) == order
  assert caplog.messages == [NOTE] * (order is not None)


def test_classes_of_other_names_are_refused(caplog):
  with pytest.raises(InputError) as e:
    check(4, 3, ['a', 'b', 'x', 'y'], LETTERS, trained_on_it=True)
  assert str(e.value) == (
    "The model of x.npz does not have these classes of pets: 'c'. Its classes are 'a'; 'b'; 'x' "
    'and 1 more. Rename one.'
  )
  for names in (['x', 'y', 'z'], ['a', 'b', 'b']):
    with pytest.raises(InputError, match='does not have these classes'):
      check(3, 3, names, LETTERS)
    assert check(3, 3, names, LETTERS, by_position=True) is None
  assert check(3, 3, ['x', 'y', 'z'], LETTERS, given_names=['c', 'b', 'a']) == [2, 1, 0]
  with pytest.raises(InputError):
    check(3, 3, ['x', 'y', 'z'], LETTERS, given_names=['A class', 'B class', 'C class'])
  assert check(3, 3, None, LETTERS, given_names=['A class', 'B class', 'C class']) is None


def test_repeated_names():
  """Readable names of ImageNet have two cranes: the bird and the machine."""
  cranes = ['crane', 'dog', 'crane']
  assert check(3, 3, cranes, cranes) is None
  assert check(4, 3, [*cranes, 'cat'], cranes) is None
  assert check(3, 3, ['Crane', 'dog', 'crane'], cranes) is None
  assert check(3, 2, cranes, ['crane', 'dog']) is None  # the first ones
  words = (
    'The classes of pets and of the model of x.npz are in another order and cannot be matched by '
    "name, because several have the same: 'crane'. Rename one."
  )
  for model, data in ((['crane', 'crane', 'dog'], cranes), (cranes, ['dog', 'crane'])):
    with pytest.raises(InputError) as e:
      check(3, len(data), model, data)
    assert str(e.value) == words
    assert check(3, len(data), model, data, by_position=True) is None
  assert check(3, 1, cranes, ['dog']) == [1, 0, 2]


def test_imagenet():
  """Its classes are WordNet ids in TFDS, and one lemma or all of them elsewhere."""
  ids, names = [f'n{i:08}' for i in range(1000)], imagenet_names(1000)
  lemmas = [f'{name}, Something else' for name in names]
  assert check(1000, 1000, None, ids) is check(1000, 1000, names, ids) is None
  assert check(1000, 1000, lemmas, ids) is None
  assert check(1000, 2, None, [names[7], names[3]])[:3] == [7, 3, 0]  # a published file
  with pytest.raises(InputError, match='does not have these classes of pets: .n00000003'):
    check(1000, 2, None, ids[3:5])
  with pytest.raises(InputError):
    check(1000, 1000, names[500:] + names[:500], ids)
