import numpy as np
import pytest

from vit_jax.data.decode import decode_image
from vit_jax.data.open_source import open_source
from vit_jax.dedup.duplicates import Duplicates, NumberedImages, open_examples
from vit_jax.dedup.example_ids import ExampleIds
from vit_jax.tools import dedup


@pytest.fixture
def duplicates(digits_dir):
  train = ExampleIds('digits', 'train', digits_dir)
  against = [ExampleIds('digits', split, digits_dir) for split in ('test[:20]', 'train[:9]')]
  pairs = np.array([[3, 19, 4], [3, 23, 0], [8, 19, 2]])
  return Duplicates(train, against, '8', pairs, None)


def test_images_are_numbered_across_sets(duplicates, digits_dir):
  images = NumberedImages(duplicates.against)
  assert len(images) == 29
  assert images.name(19) == 'digits:test 19' and str(images.id(20)) == 'train 0'
  expected = decode_image(open_source('digits', 'train', digits_dir)[3]['image'])
  np.testing.assert_array_equal(images.pixels(23), expected)


def test_each_image_has_its_closest_duplicate_as_the_reason(duplicates):
  assert duplicates.ids_text().splitlines()[4:] == [
    '# threshold: 8',
    '# against: digits:test[:20],digits:train[:9]',
    'train 3  # distance 0 to digits:train 3',
    'train 8  # distance 2 to digits:test 19',
  ]
  assert duplicates.summary() == (
    '2 of 1,437 images of digits:train are near-duplicates of 2 of 29 test images'
  )


def test_embedding_distances_are_in_the_reason(duplicates):
  checked = Duplicates(
    duplicates.train,
    duplicates.against,
    '8, embedding 0.1',
    duplicates.pairs[:1],
    np.array([0.0625], np.float32),
  )
  assert checked.ids_text().splitlines()[-1] == (
    'train 3  # distance 4, embedding 0.062 to digits:test 19'
  )


def test_ids_that_cannot_be_written_are_printed(duplicates, tmp_path, monkeypatch, capsys):
  (tmp_path / 'ids.txt').mkdir()  # a directory that is in the way
  monkeypatch.setattr(dedup, 'find_duplicates', lambda *args, **kwargs: duplicates)
  monkeypatch.setattr(dedup, 'open_examples', lambda *args: None)
  out = tmp_path / 'ids.txt'
  assert dedup.main(['--train=digits', '--against=digits', f'--out={out}']) == 1
  printed, err = capsys.readouterr()
  assert printed == f'{duplicates.summary()}: {out}\n{duplicates.ids_text()}'
  assert err == f'error: Cannot write {out}: Is a directory. Save the text above instead.\n'


def test_default_splits(digits_dir):
  assert str(open_examples('digits', 'train', digits_dir)) == 'digits:train'
  assert str(open_examples('digits', None, digits_dir)) == 'digits:test'
  assert str(open_examples('digits:train[:5]', None, digits_dir)) == 'digits:train[:5]'
