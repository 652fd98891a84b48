"""List the directories of a folder in a bucket, once."""

import pytest

from vit_jax.data import file_tree, remote, storage
from vit_jax.data.file_tree import LISTING_FILE, open_tree

FILES = ['train/cat/a.png', 'train/cat/old/b.png', 'train/dog/c.png', 'val/dog/d.png', 'README.md']


@pytest.fixture
def folder(request, tmp_path, monkeypatch):
  """Return the address of a folder."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  file_tree._remote_tree.cache_clear()
  address = f'memory://{request.node.originalname}/{id(request)}'
  for path in FILES:
    remote.write_file(f'{address}/{path}', path.encode())
  return address


@pytest.fixture
def listed(monkeypatch):
  """Return the addresses that are listed with all that is below them."""
  addresses = []
  find = remote.find_files
  monkeypatch.setattr(
    remote, 'find_files', lambda address: (addresses.append(address), find(address))[1]
  )
  return addresses


def names(tree, directory):
  return {(e.name, e.is_directory) for e in tree.entries(directory)}


def test_the_directories(folder, listed):
  for _ in range(2):  # from the bucket, then from the listing
    file_tree._remote_tree.cache_clear()
    tree = open_tree(folder)
    assert names(tree, folder) == {('train', True), ('val', True), ('README.md', False)}
    assert names(tree, f'{folder}/train') == {('cat', True), ('dog', True)}
    assert names(tree, f'{folder}/train/cat') == {('a.png', False), ('old', True)}
    assert names(tree, f'{folder}/train/cat/old') == {('b.png', False)}
    assert tree.is_directory(f'{folder}/val') and not tree.is_directory(f'{folder}/README.md')
    assert tree.first_bytes(f'{folder}/README.md', 6) == b'README'
    assert tree.first_bytes(f'{folder}/README.md', 99) == b'README.md'
  assert sorted(listed) == [f'{folder}/{name}' for name in ('train/cat', 'train/dog', 'val/dog')]
  assert LISTING_FILE in storage.names(folder)


def test_a_new_class_is_listed(folder, listed):
  open_tree(folder)
  remote.write_file(f'{folder}/val/cat/e.png', b'')
  file_tree._remote_tree.cache_clear()
  assert names(open_tree(folder), f'{folder}/val') == {('cat', True), ('dog', True)}
  assert len(listed) == 7


def test_no_such_folder(folder):
  tree = open_tree(f'{folder}/none')
  assert not tree.is_directory(f'{folder}/none')
  assert storage.names(f'{folder}/none') == []
