"""The index of shards is made once, kept, and made again for shards that change."""

import dataclasses
import os

import numpy as np
import pytest

from tests.helpers.storage import put
from tests.helpers.tars import write_shards, write_tar
from vit_jax.data import kept_file, remote, storage, tar_index_file
from vit_jax.data.tar_index import index_tar
from vit_jax.data.tar_index_file import INDEX_FILE, read_indices
from vit_jax.errors import InputError


@pytest.fixture
def reads(monkeypatch):
  """Return the names of the tars that are indexed."""
  names = []

  def noted(path, stamp):
    names.append(os.path.basename(path))
    return index_tar(path, stamp)

  monkeypatch.setattr(tar_index_file, 'index_tar', noted)
  return names


def equal(a, b):
  return all(
    np.array_equal(getattr(x, field), getattr(y, field))
    for x, y in zip(a, b, strict=True)
    for field in vars(x)
  )


def test_tars_are_read_once_and_again_when_they_change(tmp_path, reads):
  write_shards(tmp_path, 'a', 3, 4)
  paths = [str(path) for path in sorted(tmp_path.glob('*.tar'))]
  first = read_indices(paths[:2])
  assert sorted(reads) == ['a-000.tar', 'a-001.tar'] and (tmp_path / INDEX_FILE).exists()
  three = read_indices(paths)
  assert reads[2:] == ['a-002.tar'] and equal(three[:2], first)
  assert equal(read_indices(paths[::-1]), three[::-1]) and len(reads) == 3
  write_shards(tmp_path, 'a', 1, 3)  # another size
  changed = read_indices(paths)
  assert reads[3:] == ['a-000.tar'] and len(changed[0].keys) == 3 and equal(changed[1:], three[1:])
  # The same size, as after a correction of labels: the time says it.
  os.utime(paths[1], ns=(0, 7))
  read_indices(paths)
  assert reads[4:] == ['a-001.tar']


def test_an_empty_tar(tmp_path):
  write_tar(tmp_path / 'a.tar', [])
  write_shards(tmp_path, 'b', 1, 2)
  paths = [str(tmp_path / 'a.tar'), str(tmp_path / 'b-000.tar')]
  assert equal(read_indices(paths), read_indices(paths))
  assert [len(index.keys) for index in read_indices(paths)] == [0, 2]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, reads, messages):
  data, cache = tmp_path / 'data', tmp_path / 'cache'
  write_shards(data, 'a', 1, 4)
  path = str(data / 'a-000.tar')
  replacing = kept_file.replacing

  def refuse(file):
    if str(file).startswith(str(data)):
      raise InputError(f'Cannot write {file}: permission denied. Choose another path.')
    return replacing(file)

  monkeypatch.setattr(kept_file, 'replacing', refuse)
  monkeypatch.setenv('XDG_CACHE_HOME', str(cache))
  first = read_indices([path])
  assert equal(read_indices([path]), first) and len(reads) == 1
  (file,) = cache.rglob('*.npz')
  messages.clear()
  file.write_bytes(b'damaged')
  assert equal(read_indices([path]), first) and len(reads) == 2
  assert messages[0].startswith(f'{file} is damaged (')


def test_an_interrupted_index_goes_on(tmp_path, reads):
  write_shards(tmp_path, 'a', 3, 4)
  paths = [str(path) for path in sorted(tmp_path.glob('*.tar'))]
  good = (tmp_path / 'a-002.tar').read_bytes()
  (tmp_path / 'a-002.tar').write_bytes(good[:700])
  with pytest.raises(InputError, match='a-002.tar'):
    read_indices(paths)
  (tmp_path / 'a-002.tar').write_bytes(good)
  reads.clear()
  read_indices(paths)
  assert reads == ['a-002.tar']


def test_an_index_keeps_the_tars_of_other_patterns(tmp_path, reads):
  write_shards(tmp_path, 'a', 1, 4)
  write_shards(tmp_path, 'b', 1, 4)
  for name in ('a', 'b', 'a'):
    read_indices([str(tmp_path / f'{name}-000.tar')])
  assert reads == ['a-000.tar', 'b-000.tar']


@pytest.mark.parametrize('slashes', ['/', '//', '/./'])
def test_a_changed_tar_behind_any_slashes(tmp_path, reads, slashes):
  write_shards(tmp_path, 'a', 1, 4)
  path = f'{tmp_path}{slashes}a-000.tar'
  assert [len(read_indices([path])[0].keys) for _ in range(2)] == [4, 4] and len(reads) == 1
  write_shards(tmp_path, 'a', 1, 3)
  assert len(read_indices([path])[0].keys) == 3
  one, same = read_indices([path, path])
  assert equal([one], [same]) and len(reads) == 2


def test_a_damaged_or_unreadable_index_is_made_again(tmp_path, reads, messages):
  write_shards(tmp_path, 'a', 1, 40)
  path, index = str(tmp_path / 'a-000.tar'), tmp_path / INDEX_FILE
  first = read_indices([path])
  damaged = bytearray(index.read_bytes())
  damaged[58] |= 6  # the begin of compressed data: a kind of block that does not exist
  index.write_bytes(damaged)
  messages.clear()
  assert equal(read_indices([path]), first) and len(reads) == 2
  assert messages[0].startswith(f'{index} is damaged (Error -3 while decompressing data: ')
  index.unlink()
  index.mkdir()
  messages.clear()
  assert equal(read_indices([path]), first) and len(reads) == 3
  assert messages[0] == f'{index} cannot be read (Is a directory). It is made again.'


def test_a_tar_that_is_not_there(tmp_path):
  with pytest.raises(InputError) as e:
    read_indices([f'{tmp_path}/a.tar'])
  assert str(e.value) == (
    f'Cannot read the shard {tmp_path}/a.tar: No such file or directory. Check the path.'
  )


def test_remote_tars(tmp_path, reads, monkeypatch):
  write_shards(tmp_path, 'a', 2, 40)
  put(tmp_path, 'memory://tars')
  local = read_indices([str(tmp_path / f'a-00{i}.tar') for i in range(2)])
  monkeypatch.setattr('vit_jax.data.tar_index._CHUNK', 1000)
  addresses = ['memory://tars/a-000.tar', 'memory://tars/a-001.tar']
  indices = read_indices(addresses)
  for index, same in zip(indices, local):
    assert index.stamp[0, 0] == same.stamp[0, 0]
    assert equal([index], [dataclasses.replace(same, stamp=index.stamp)])
  assert equal(read_indices(addresses), indices) and len(reads) == 4
  assert INDEX_FILE in storage.names('memory://tars')
  tar = (tmp_path / 'a-000.tar').read_bytes()
  remote.write_file(addresses[0], tar[:-20000])
  with pytest.raises(InputError, match='a-000.tar.* Copy it again'):
    read_indices(addresses)


def test_a_remote_tar_that_is_replaced_by_one_of_the_same_size(tmp_path, reads):
  address = 'memory://replaced/a-000.tar'
  write_shards(tmp_path, 'a', 1, 4)
  put(tmp_path, 'memory://replaced')
  read_indices([address])
  assert equal(read_indices([address]), read_indices([address])) and len(reads) == 1
  put(tmp_path, 'memory://replaced')
  read_indices([address])
  assert len(reads) == 2
