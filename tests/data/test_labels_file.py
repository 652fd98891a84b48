"""Images whose labels are in a .csv file."""

import pytest

from tests.helpers.shapes import read_all
from vit_jax.data.dataset_names import absolute_path
from vit_jax.data.open_source import open_source, split_names
from vit_jax.errors import InputError


def write(folder, text, *images):
  for image in images:
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    (folder / image).write_bytes(image.encode())
  (folder / 'labels.csv').write_text(text, 'utf-8')
  return str(folder / 'labels.csv')


def test_one_label_per_image(tmp_path, monkeypatch):
  text = '\ufeffid,image,label\n7,training/b/1.jpg,zoo\n8,training/2.jpg, ant \n9,val/3.jpg,zoo\n'
  path = write(tmp_path, text, 'training/b/1.jpg', 'training/2.jpg', 'val/3.jpg')
  opened = open_source(path, 'train')
  assert opened.class_names == ['ant', 'zoo'] and not opened.multi_label and opened.apply_exif
  assert read_all(opened) == [
    {'image': b'training/b/1.jpg', 'label': 1},
    {'image': b'training/2.jpg', 'label': 0},
  ]
  assert opened.location(1) == f'{tmp_path}/training/2.jpg'
  assert split_names(path) == ['train', 'val']
  monkeypatch.chdir(tmp_path)
  assert len(open_source('labels.csv', 'all')) == 3
  assert absolute_path('labels.csv') == path
  monkeypatch.setenv('HOME', str(tmp_path))
  assert len(open_source('~/labels.csv', 'val')) == 1


def test_numbers_are_classes(tmp_path):
  path = write(tmp_path, 'image,label\ntrain/a,10\ntrain/b,2\n', 'train/a', 'train/b')
  opened = open_source(path, 'train')
  assert opened.num_classes == 11 and opened.class_names is None
  assert [opened.label(i) for i in range(2)] == [10, 2]


def test_negative_numbers_are_no_labels(tmp_path):
  text = 'image,label\n' + ''.join(f'train/{i},{i}\n' for i in (0, 1, 2, 10)) + 'train/x,-1\n'
  opened = open_source(write(tmp_path, text), 'train')
  assert opened.num_classes == 11 and opened.class_names is None
  assert [opened.label(i).nonzero()[0].tolist() for i in range(5)] == [[0], [1], [2], [10], []]


def test_numbers_and_names_are_refused(tmp_path):
  path = write(tmp_path, 'image,label\ntrain/a,1\ntrain/b,n02\n')
  with pytest.raises(InputError) as e:
    open_source(path, 'train')
  assert str(e.value) == (
    f"Some labels in {path} are numbers, and others are names such as 'n02'. Write all of them as "
    'numbers, or all as names.'
  )


def test_several_labels(tmp_path):
  text = 'label,image\nx,train/a\ny,train/b\nz,./train/a\n,train/c\nx,train/a\n'
  opened = open_source(write(tmp_path, text, 'train/a'), 'train')
  assert opened.multi_label
  assert [opened.label(i).tolist() for i in range(3)] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
  assert opened[0]['image'] == b'train/a'
  with pytest.raises(ValueError, match='^the file cannot be read .No such file or directory.$'):
    opened[1]


@pytest.mark.parametrize(
  'text, message',
  [
    ('a,b\n1,2\n', '{} has the columns a, b. It needs the columns image and label.'),
    ('', '{} has the columns (none). It needs the columns image and label.'),
    (
      'image,label\n1.jpg,a\n',
      "{}, line 2: The path '1.jpg' has no folder. It must begin with that of a split, as in "
      'train/1.jpg.',
    ),
    (
      'image,label\ntrain/1.jpg\n',
      '{}, line 2: There is no label. Add it, or a comma if the image has none.',
    ),
    (
      'label,image\na,train/1.jpg\nb\n',
      '{}, line 3: There is no image. Add its path, such as train/1.jpg.',
    ),
    (
      'image,label\n/data/train/1.jpg,a\n',
      "{}, line 2: The path '/data/train/1.jpg' leads out of the folder of the file. It must be "
      'relative to that folder, as in train/1.jpg.',
    ),
    (
      'image,label\n../train/1.jpg,a\n',
      "{}, line 2: The path '../train/1.jpg' leads out of the folder of the file. It must be "
      'relative to that folder, as in train/1.jpg.',
    ),
    (
      'image,label\n./1.jpg,a\n',
      "{}, line 2: The path './1.jpg' has no folder. It must begin with that of a split, as in "
      'train/1.jpg.',
    ),
    (
      'image,label\ntrain/a,b.jpg,cat\n',
      '{}, line 2: There are more values than columns. Put quotes around a value that has a comma.',
    ),
  ],
)
def test_files_that_cannot_be_read(tmp_path, text, message):
  path = write(tmp_path, text)
  with pytest.raises(InputError) as e:
    open_source(path, 'train')
  assert str(e.value) == message.format(path)


def message(path):
  with pytest.raises(InputError) as e:
    open_source(path, 'train')
  return str(e.value)


def test_a_file_that_is_missing_or_no_text(tmp_path):
  path = f'{tmp_path}/labels.csv'
  assert message(path) == f'There is no file {path}. Check the path.'
  (tmp_path / 'labels.csv').write_bytes(b'\xff\xfe\x00')
  with pytest.raises(
    InputError, match=f"^Cannot read {path}: 'utf-8' codec can.*, with values between comm"
  ):
    open_source(path, 'train')
  (tmp_path / 'labels.csv').unlink()
  (tmp_path / 'labels.csv').mkdir()
  assert message(path) == (
    f'Cannot read {path}: Is a directory. Check its permissions and its disk.'
  )


def test_an_address_is_refused():
  assert message('gs://b/labels.csv') == (
    'gs://b/labels.csv is a remote address, but images with labels in a .csv file must be on a '
    'local disk. Download them, or mount the bucket.'
  )
