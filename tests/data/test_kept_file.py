"""Arrays are kept beside the data or in the user's cache, and made again if damaged."""

import io
import os

import numpy as np
import pytest

from vit_jax.data import kept_file, remote
from vit_jax.data.kept_file import load_arrays, save_arrays
from vit_jax.errors import InputError

ARRAYS = dict(names=np.array(['a', 'b']), lengths=np.arange(400))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


def is_whole(arrays):
  return all(np.array_equal(arrays[name], value) for name, value in ARRAYS.items())


@pytest.mark.parametrize('where', ['disk', 'memory'])
def test_arrays_are_kept_beside_the_data(tmp_path, cache, where):
  directory = f'memory://kept/{tmp_path.name}' if where == 'memory' else str(tmp_path / 'data')
  assert load_arrays(directory, 'x.npz', is_whole) is None
  save_arrays(directory, 'x.npz', ARRAYS)
  assert load_arrays(directory, 'x.npz', is_whole).keys() == ARRAYS.keys()
  assert load_arrays(directory, 'x.npz', lambda arrays: False) is None
  assert not cache.exists()


def test_any_damage_is_noticed(tmp_path, messages):
  """A wrong bit raises one of seven kinds of errors, depending on where it is."""
  out = io.BytesIO()
  np.savez_compressed(out, **ARRAYS)
  good = out.getvalue()
  for position in range(0, len(good), 3):
    content = bytearray(good)
    content[position] ^= 1 << position % 8
    (tmp_path / 'x.npz').write_bytes(content)
    load_arrays(str(tmp_path), 'x.npz', is_whole)
  assert len(messages) > len(good) / 6
  assert all(line.startswith(f'{tmp_path}/x.npz is damaged (') for line in messages)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch, messages):
  def refuse(path):
    raise PermissionError(13, 'Permission denied', path)

  monkeypatch.setattr(kept_file.storage, 'read', refuse)
  assert load_arrays(str(tmp_path), 'x.npz', is_whole) is None
  assert messages[0] == f'{tmp_path}/x.npz cannot be read (Permission denied). It is made again.'


def test_a_storage_that_does_not_answer(monkeypatch):
  """An index that takes hours is not made again because the network is down."""

  def fail(path):
    raise InputError('Cannot read x.')

  monkeypatch.setattr(kept_file.storage, 'read', fail)
  with pytest.raises(InputError, match='^Cannot read x.$'):
    load_arrays('memory://down', 'x.npz', is_whole)


def test_arrays_that_cannot_be_written_anywhere(monkeypatch, messages):
  def refuse(path, content=None):
    raise InputError(f'Cannot write {os.path.basename(os.path.dirname(path))}.')

  monkeypatch.setattr(kept_file, 'replacing', refuse)
  monkeypatch.setattr(remote, 'write_file', refuse)
  save_arrays('memory://first', 'x.npz', ARRAYS)
  assert messages == ['x.npz is not kept, so the next run makes it again. Cannot write first.']
