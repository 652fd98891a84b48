"""A run's files are copied to a workdir in an object store."""

from unittest.mock import Mock

from etils import epath
import pytest

from vit_jax.errors import InputError
from vit_jax.training.mirror import WorkdirMirror


@pytest.fixture
def store(tmp_path):
  """Return a directory that, like a bucket, is not a pathlib.Path."""
  return epath.Path(tmp_path / 'bucket')


def test_a_local_workdir_is_written_directly(tmp_path):
  mirror = WorkdirMirror(tmp_path)
  assert mirror.directory == tmp_path
  (tmp_path / 'log.txt').write_text('a')
  mirror.copy()
  mirror.close()
  assert [path.name for path in tmp_path.iterdir()] == ['log.txt']


def test_files_that_have_grown_are_copied(store):
  mirror = WorkdirMirror(store)
  (mirror.directory / 'figures').mkdir()
  (mirror.directory / 'figures' / 'a.png').write_bytes(b'png')
  (mirror.directory / 'metrics.jsonl').write_text('1')
  (mirror.directory / 'metrics.tmp').write_text('half')
  mirror.copy()
  assert (store / 'figures/a.png').read_bytes() == b'png'
  assert (store / 'metrics.jsonl').read_text() == '1'
  assert not (store / 'metrics.tmp').exists()
  (store / 'figures/a.png').write_bytes(b'someone else')
  (mirror.directory / 'metrics.jsonl').write_text('12')
  mirror.close()
  assert (store / 'metrics.jsonl').read_text() == '12'
  assert (store / 'figures/a.png').read_bytes() == b'someone else'  # it had not grown
  assert not mirror.directory.exists()


def test_a_resumed_run_goes_on_in_its_files(store):
  store.mkdir()
  (store / 'metrics.jsonl').write_text('1\n')
  mirror = WorkdirMirror(store, resume=('metrics.jsonl', 'log.txt'))
  assert [path.name for path in mirror.directory.iterdir()] == ['metrics.jsonl']
  assert (mirror.directory / 'metrics.jsonl').read_text() == '1\n'
  mirror.close()


def test_a_lack_of_memory_is_not_blamed_on_the_store(store, monkeypatch, messages):
  mirror = WorkdirMirror(store)
  (mirror.directory / 'log.txt').write_text('a')
  with monkeypatch.context() as patch:
    patch.setattr(type(store), 'write_bytes', Mock(side_effect=MemoryError('no room')))
    with pytest.raises(MemoryError):
      mirror.copy()
    patch.setattr(mirror, '_closing', Mock(wait=Mock(side_effect=[False, True])))
    mirror._keep_copying()  # a later copy may succeed
  assert messages == ['This machine is out of memory (no room).']
  mirror.close()
  assert (store / 'log.txt').read_text() == 'a'


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  mirror = WorkdirMirror(epath.Path(tmp_path / 'file'))
  (mirror.directory / 'log.txt').write_text('a')
  with pytest.raises(InputError, match='Cannot write .*/file/log.txt: '):
    mirror.copy()
  (mirror.directory / 'log.txt').unlink()
  mirror.close()
