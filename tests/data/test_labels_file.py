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
  ],
)
def test_files_that_cannot_be_read(tmp_path, text, message):
  path = write(tmp_path, text)
  with pytest.raises(InputError) as e:
    open_source(path, 'train')
  assert str(e.value) == message.format(path)


def test_a_file_that_is_missing_or_no_text(tmp_path):
  path = f'{tmp_path}/labels.csv'
  for content, why in [(None, 'No such file or directory'), (b'\xff\xfe\x00', "'utf-8' codec can")]:
    if content is not None:
      (tmp_path / 'labels.csv').write_bytes(content)
    with pytest.raises(InputError, match=f'^Cannot read {path}: {why}.*, with values between comm'):
      open_source(path, 'train')
