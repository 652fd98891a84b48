"""Read folders of images from a bucket: the same images as from a disk, in the same order."""

import os
import pickle

import fsspec
import pytest

from tests.helpers.images import IMAGE, encode
from tests.helpers.shapes import read_all
from tests.helpers.storage import put
from vit_jax.data import file_tree, remote
from vit_jax.data.dataset_names import absolute_path, is_own_data
from vit_jax.data.kept_file import kept_paths
from vit_jax.data.open_source import describe_dataset, open_source, split_names
from vit_jax.errors import InputError


@pytest.fixture
def copied(photos, request, tmp_path_factory, monkeypatch):
  """Return (a folder of images, the address of its copy)."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
  file_tree._remote_tree.cache_clear()
  (photos / 'train' / 'ant' / 'more' / 'ünïcode').mkdir(parents=True)
  (photos / 'train' / 'ant' / 'more' / 'ünïcode' / 'ä 1.jpg').write_bytes(b'3')
  (photos / 'train' / 'ant' / 'picture.dat').write_bytes(encode(IMAGE, 'PNG'))
  address = f'memory://{request.node.originalname}/{id(request)}'
  put(photos, address)
  return photos, address


@pytest.mark.parametrize('split', ['train', 'val', 'train[:50%]', 'train+val', 'train[1:3]+val'])
def test_the_images_are_those_on_the_disk(copied, split, messages):
  folder, address = copied
  expected = open_source(str(folder), split)
  said = [line.replace(str(folder), address) for line in messages]
  messages.clear()
  opened = open_source(address, split)
  assert read_all(opened) == read_all(expected)
  assert [opened.location(i) for i in range(len(opened))] == [
    expected.location(i).replace(str(folder), address) for i in range(len(opened))
  ]
  assert opened.class_names == expected.class_names == ['ant', 'cat', 'dog']
  assert opened.empty_classes == expected.empty_classes
  assert opened.newly_listed == expected.newly_listed
  assert opened.is_remote and opened.apply_exif
  assert [line for line in messages if 'which happens once' not in line][-len(said) :] == said
  assert read_all(pickle.loads(pickle.dumps(opened))) == read_all(expected)
  assert split_names(f'{address}/') == ['train', 'val']
  assert describe_dataset(address).eval_split == 'val'
  assert is_own_data(address) and absolute_path(address) == address


def test_an_image_that_is_gone(copied):
  _, address = copied
  opened = open_source(address, 'val')
  file = opened.location(0)
  remote.write_file(file, b'new')
  assert opened[0]['image'] == b'new'

  fsspec.filesystem('memory').rm(file)
  with pytest.raises(ValueError, match='^the file cannot be read ') as e:
    opened[0]
  assert not isinstance(e.value, InputError)
  assert str(e.value) == f'the file cannot be read (no such file). {delete_listing(address)}'


def delete_listing(address):
  listing, cached = kept_paths(address, 'vit_jax_listing.npz')
  assert str(cached).startswith(os.environ['XDG_CACHE_HOME'])
  return (
    f'If it was deleted on purpose, also delete the listing of the folder ({listing} and {cached})'
  )


def test_a_file_is_gone_that_only_its_content_tells_from_others(copied):
  _, address = copied
  assert len(open_source(address, 'train'))
  file_tree._remote_tree.cache_clear()
  file = f'{address}/train/ant/picture.dat'
  fsspec.filesystem('memory').rm(file)
  with pytest.raises(InputError) as e:
    open_source(address, 'train')
  assert str(e.value) == f'Cannot read {file}: no such file. {delete_listing(address)}.'
  fsspec.filesystem('memory').rm(f'{address}/vit_jax_listing.npz')
  file_tree._remote_tree.cache_clear()
  assert len(open_source(address, 'train'))


def test_what_is_no_folder(copied):
  _, address = copied
  with pytest.raises(InputError, match=f'^There is no folder {address}/none. Check the path.$'):
    open_source(f'{address}/none', 'train')
  with pytest.raises(InputError, match=f'^The folder {address}/train has no subfolder train. Put'):
    open_source(f'{address}/train', 'train')
