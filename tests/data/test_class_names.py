"""Names of ImageNet's classes, and names for all classes of a model."""

import pytest

from vit_jax.data.class_names import imagenet_names, readable_names


@pytest.mark.parametrize(
  'num_classes, names',
  [
    (
      1000,
      {
        0: 'tench',
        1: 'goldfish',
        134: 'crane (bird)',
        207: 'golden retriever',
        281: 'tabby',
        282: 'tiger cat',
        340: 'zebra',
        483: 'castle',
        517: 'crane (machine)',
        574: 'golf ball',
        638: 'maillot',
        639: 'maillot, tank suit',
        817: 'sports car',
        963: 'pizza',
        999: 'toilet tissue',
      },
    ),
    (21843, {0: 'organism', 9205: 'picture', 15027: 'bleacher'}),
  ],
)
def test_names_of_imagenet(num_classes, names):
  all_names = imagenet_names(num_classes)
  assert len({name.casefold() for name in all_names}) == len(all_names) == num_classes
  assert {label: all_names[label] for label in names} == names
  assert all(name == name.strip() != '' for name in all_names)


def test_other_numbers_of_classes_have_no_names():
  assert imagenet_names(10) is None


@pytest.mark.parametrize(
  'names, num_labels, num_classes, expected',
  [
    (['cat', 'dog'], 2, 2, ['cat', 'dog']),
    (['cat', 'dog'], 2, 4, ['cat', 'dog', 'class 2', 'class 3']),
    ([], 3, 3, ['class 0', 'class 1', 'class 2']),
    (['n01440764', 'n01443537'], 2, 2, ['n01440764', 'n01443537']),
  ],
)
def test_every_class_of_a_model_has_a_name(names, num_labels, num_classes, expected):
  assert readable_names(names, num_labels, num_classes) == expected


@pytest.mark.parametrize('ids', [[], [f'n{i:08}' for i in range(1000)]])
def test_wordnet_ids_become_names(ids):
  names = readable_names(ids, 1000, 1001)
  assert names[:2] == ['tench', 'goldfish'] and names[999:] == ['toilet tissue', 'class 1000']
  assert readable_names(ids[::-1], 1000, 1000) == (ids[::-1] or names[:1000])
