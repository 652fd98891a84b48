"""Find the records of remote TFRecord files, and keep what was found for the next run."""

import pytest

from tests.helpers.shapes import write_tfrecord
from vit_jax.data import kept_file, remote, storage, tfrecord_index
from vit_jax.data.tfrecord_index import record_lengths
from vit_jax.errors import InputError

RECORDS = {
  'a-00000-of-00002': [b'', b'abc', b'x' * 1000],
  'a-00001-of-00002': [],
  'b-00000-of-00001': [b'long' * 999, b'short'],
}
LENGTHS = {name: [len(record) for record in records] for name, records in RECORDS.items()}


@pytest.fixture
def directory(tmp_path, monkeypatch, request):
  """Return the address of a directory with TFRecord files."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  address = f'memory://{request.node.originalname}/{id(request)}'
  for name, records in RECORDS.items():
    write_tfrecord(tmp_path / name, records)
    remote.write_file(f'{address}/{name}', (tmp_path / name).read_bytes())
  return address


def sizes(directory):
  listing = remote.list_directory(directory)
  return {name: listing[name].size for name in RECORDS}


def found(directory):
  return {name: n.tolist() for name, n in record_lengths(directory, sizes(directory)).items()}


@pytest.fixture
def scans(monkeypatch):
  """Return the list of the files that were read as a whole so far."""
  names = []
  scan = tfrecord_index._scan
  monkeypatch.setattr(
    tfrecord_index, '_scan', lambda file, *args: (names.append(file.path), scan(file, *args))[1]
  )
  return names


@pytest.mark.parametrize('chunk', [13, 100, 2**22])
def test_the_files_are_read_once(directory, scans, monkeypatch, chunk):
  monkeypatch.setattr(tfrecord_index, '_CHUNK', chunk)
  assert found(directory) == LENGTHS
  assert sorted(scans) == [f'{directory}/{name}' for name in RECORDS]
  assert {'a.lengths.npz', 'b.lengths.npz'} < set(storage.names(directory))
  assert found(directory) == LENGTHS
  assert len(scans) == len(RECORDS)


def test_the_index_of_some_files_is_completed(directory, scans):
  first = {'a-00001-of-00002': sizes(directory)['a-00001-of-00002']}
  assert [n.tolist() for n in record_lengths(directory, first).values()] == [[]]
  assert found(directory) == LENGTHS
  assert len(scans) == len(RECORDS)


def test_a_file_of_another_size_is_read_again(directory, scans, tmp_path):
  found(directory)
  write_tfrecord(tmp_path / 'new', [b'new'])
  remote.write_file(f'{directory}/b-00000-of-00001', (tmp_path / 'new').read_bytes())
  assert found(directory) == LENGTHS | {'b-00000-of-00001': [3]}
  assert scans[3:] == [f'{directory}/b-00000-of-00001']


def test_a_bucket_that_cannot_be_written(directory, scans, tmp_path, monkeypatch):
  def refuse(address, content):
    raise InputError('no')

  monkeypatch.setattr(remote, 'write_file', refuse)
  assert found(directory) == found(directory) == LENGTHS
  assert len(scans) == len(RECORDS)
  assert set(storage.names(directory)) == set(RECORDS)
  cached = list((tmp_path / 'cache' / 'vit_jax' / 'records').glob('*/*.npz'))
  assert {path.name for path in cached} == {'a.lengths.npz', 'b.lengths.npz'}


def test_a_damaged_index_is_made_again(directory, scans, messages):
  found(directory)
  content = storage.read(f'{directory}/b.lengths.npz')
  for damaged in (b'', content[:50], content[: len(content) // 2], b'x' * 999):
    remote.write_file(f'{directory}/b.lengths.npz', damaged)
    assert found(directory) == LENGTHS
  assert scans[3:] == [f'{directory}/b-00000-of-00001'] * 4
  assert sum('b.lengths.npz is damaged' in line for line in messages) == 4


@pytest.mark.parametrize(
  'keep, message',
  [
    (-1, 'record 1 reaches beyond its end'),
    (4, 'it ends inside record 0'),
    (4017, 'it ends inside record 1'),
  ],
)
def test_a_file_that_is_cut_short(directory, keep, message):
  path = f'{directory}/b-00000-of-00001'
  remote.write_file(path, storage.read(path)[:keep])
  with pytest.raises(
    InputError, match=rf'^Cannot read {path}: {message}\. Prepare the dataset again\.$'
  ):
    found(directory)
  assert 'b.lengths.npz' not in storage.names(directory)


def test_without_a_home_directory(directory, monkeypatch, scans):
  def no_home():
    raise InputError('no home')

  monkeypatch.setattr(kept_file, 'cache_directory', no_home)
  monkeypatch.setattr(remote, 'write_file', lambda *args: no_home())
  assert found(directory) == found(directory) == LENGTHS
  assert len(scans) == 2 * len(RECORDS)
