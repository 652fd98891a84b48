"""Folders of images: order of the files, slices and errors."""

import os
import pickle
import shutil

import pytest

from tests.helpers.shapes import read_all
from vit_jax.data.open_source import describe_dataset, open_source, split_names
from vit_jax.errors import InputError


def test_a_folder(photos, monkeypatch):
  opened = open_source(str(photos), 'train')
  assert opened.class_names == ['ant', 'cat', 'dog'] and opened.num_classes == 3
  assert opened.apply_exif
  expected = [
    ('ant/1.png', 0),
    ('cat/a.png', 1),
    ('cat/b.JPG', 1),
    ('dog/x.webp', 2),
    ('dog/y.jpeg', 2),
  ]
  assert [opened.location(i) for i in range(len(opened))] == [
    f'{photos}/train/{path}' for path, _ in expected
  ]
  assert read_all(opened) == [
    {'image': f'train/{path}'.encode(), 'label': label} for path, label in expected
  ]
  val = open_source(str(photos), 'val')
  assert read_all(val) == [{'image': b'val/dog/z.png', 'label': 2}]
  assert val.class_names == opened.class_names
  assert read_all(pickle.loads(pickle.dumps(val))) == read_all(val)
  assert len(open_source(str(photos), 'train[:40%]+val')) == 3
  assert len(open_source(str(photos), 'all')) == 6
  assert len(read_all(open_source(str(photos), 'train[-1:]'))) == 1
  assert split_names(str(photos)) == ['train', 'val']
  monkeypatch.chdir(photos.parent)
  assert len(open_source(photos.name, 'train')) == 5
  assert len(open_source(f'./{photos.name}', 'train')) == 5
  monkeypatch.setenv('HOME', str(photos.parent))
  assert len(open_source(f'~/{photos.name}', 'train')) == 5


def test_slices_of_a_folder_are_samples_of_all_classes(tmp_path):
  """Each image is in exactly one slice, and every slice has all classes."""
  for name in 'abcd':
    (tmp_path / 'train' / name).mkdir(parents=True)
    for i in range(50):
      (tmp_path / 'train' / name / f'{i:02}.png').touch()
  read = lambda split: (lambda part: [part.location(i) for i in range(len(part))])(
    open_source(str(tmp_path), split)
  )
  everything = read('train')
  assert everything == sorted(everything) and len(everything) == 200
  for cuts in ([0, 80, 200], [0, 1, 2, 150, 199, 200]):
    parts = [read(f'train[{a}:{b}]') for a, b in zip(cuts, cuts[1:])]
    assert [len(part) for part in parts] == [b - a for a, b in zip(cuts, cuts[1:])]
    assert sorted(sum(parts, [])) == everything
  by_class = [sum(f'/{name}/' in path for path in read('train[80%:]')) for name in 'abcd']
  assert by_class == [9, 11, 9, 11]  # the same on every machine
  part = open_source(str(tmp_path), 'train[:40]')
  with pytest.raises(IndexError):
    part[len(part)]


def write(path, content=b'content'):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def test_every_listing_says_what_it_leaves_out(tmp_path, messages):
  for path in ('a/1.png', 'a/deep/er/2.png', 'b/3.jpg', 'b/notes.txt', 'b/.4.png', 'loose.png'):
    write(tmp_path / 'train' / path)
  for path in ('a/5.png',):
    write(tmp_path / 'val' / path)
  opened = open_source(str(tmp_path), 'train')
  assert [os.path.relpath(opened.location(i), tmp_path) for i in range(len(opened))] == [
    'train/a/1.png',
    'train/a/deep/er/2.png',
    'train/b/3.jpg',
  ]
  assert [opened.label(i) for i in range(3)] == [0, 0, 1] and not opened.empty_classes
  assert opened.newly_listed == 1  # the deep one
  open_source(str(tmp_path), 'train')  # as in the next run of a sweep, which has a log of its own
  assert messages == 2 * [
    f'{tmp_path}/train: Left out 1 file that is not an image (1 .txt), 1 hidden and 1 file '
    'outside of the class folders (loose.png).'
  ]
  open_source(str(tmp_path), 'val')
  assert messages[2:] == [f'{tmp_path}/val: There are no images of 1 class: b.']


@pytest.mark.parametrize('train', ['train', 'training', 'Train'])
@pytest.mark.parametrize(
  'name', ['val', 'valid', 'validation', 'test', 'Validation', 'dev', 'testing']
)
def test_usual_names_of_splits(tmp_path, train, name, monkeypatch):
  write(tmp_path / 'photos' / train / 'a' / '1.png')
  write(tmp_path / 'photos' / name / 'a' / '2.png')
  folder = str(tmp_path / 'photos')
  assert sorted(split_names(folder)) == sorted(['train', name])
  assert describe_dataset(folder).eval_split == name
  assert open_source(folder, 'train').location(0) == f'{folder}/{train}/a/1.png'
  assert open_source(folder, name).location(0) == f'{folder}/{name}/a/2.png'
  monkeypatch.chdir(tmp_path)
  assert len(open_source('photos', 'all')) == 2


def test_the_validation_split_is_preferred_and_others_are_not_guessed(tmp_path):
  for name in ('train', 'test', 'holdout'):
    write(tmp_path / name / 'a' / '1.png')
  assert describe_dataset(str(tmp_path)).eval_split == 'test'
  write(tmp_path / 'valid' / 'a' / '1.png')
  assert describe_dataset(str(tmp_path)).eval_split == 'valid'
  shutil.rmtree(tmp_path / 'valid')
  shutil.rmtree(tmp_path / 'test')
  assert describe_dataset(str(tmp_path)).eval_split == 'none'


def test_empty_classes_are_named(tmp_path, messages):
  for name in 'abc':
    (tmp_path / 'train' / name).mkdir(parents=True)
  write(tmp_path / 'train' / 'b' / '1.png')
  opened = open_source(str(tmp_path), 'train')
  assert opened.num_classes == 3 and opened.label(0) == 1
  assert opened.empty_classes == ['a', 'c']
  assert messages == [f'{tmp_path}/train: There are no images of 2 classes: a; c.']


def test_a_folder_of_strange_names(tmp_path):
  names = ['ü ber.jpg', os.fsdecode(b'\xff\xfe.png'), 'a' * 200 + '.png', '[1].jpeg']
  (tmp_path / 'train' / 'a,b (c)').mkdir(parents=True)
  for name in names:
    (tmp_path / 'train' / 'a,b (c)' / name).write_bytes(os.fsencode(name))
  opened = open_source(str(tmp_path), 'train')
  assert sorted(r['image'] for r in read_all(opened)) == sorted(map(os.fsencode, names))


def test_a_file_that_vanished(photos):
  opened = open_source(str(photos), 'val')
  (photos / 'val/dog/z.png').unlink()
  with pytest.raises(ValueError, match='cannot be read'):
    opened[0]


def test_bad_folders(photos):
  with pytest.raises(InputError, match="^Unknown split 'test'. Available: train, val.$"):
    open_source(str(photos), 'test')
  (photos / 'val' / 'cow').mkdir()
  with pytest.raises(
    InputError,
    match='val/cow is a class that train does not have. Train has 3 classes: ant, cat, dog.',
  ):
    open_source(str(photos), 'val')
  (photos / 'empty' / 'cat').mkdir(parents=True)
  with pytest.raises(InputError, match=r'empty has no images\. Put \.jpg'):
    open_source(str(photos), 'empty')
  with pytest.raises(InputError, match=f'There is no folder {photos}/nowhere'):
    open_source(f'{photos}/nowhere', 'train')
  with pytest.raises(InputError, match='val has no subfolder train. Put the images into train/'):
    open_source(f'{photos}/val', 'train')
  shutil.rmtree(photos / 'train')
  (photos / 'train').mkdir()
  (photos / 'train' / 'a.png').write_bytes(b'')
  with pytest.raises(InputError, match='train has no class folders. Put'):
    open_source(str(photos), 'train')
