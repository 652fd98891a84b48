"""A new data format needs three methods."""

import pytest

from vit_jax.data.source import Source


class Digits(Source):
  num_classes = 10
  class_names = None

  def __len__(self):
    return 3

  def __getitem__(self, index):
    return {'image': b'', 'label': index + 4}

  def location(self, index):
    return f'digit {index}'


def test_a_format_needs_three_methods():
  source = Digits()
  assert [source.label(i) for i in range(len(source))] == [4, 5, 6]
  assert source.location(1) == 'digit 1'
  assert not source.multi_label and not source.apply_exif
  with pytest.raises(TypeError, match='abstract'):
    Source()
