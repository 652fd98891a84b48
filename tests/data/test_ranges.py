"""Read ranges of bytes of local and remote files."""

import pickle

import fsspec
import pytest

from vit_jax.data.ranges import RangeFile
from vit_jax.errors import InputError

DATA = bytes(range(256)) * 3


@pytest.fixture(params=['local', 'remote'])
def path(request, tmp_path):
  """Return the path of a file that holds DATA."""
  if request.param == 'local':
    (tmp_path / 'x').write_bytes(DATA)
    return str(tmp_path / 'x')
  fsspec.filesystem('memory').pipe_file('/ranges/x', DATA)
  return 'memory://ranges/x'


def test_ranges(path):
  file = pickle.loads(pickle.dumps(RangeFile(path)))
  assert file.size() == len(DATA)
  spans = [(0, 5), (760, 8), (255, 2), (9, 0)]
  waiting = [file.start(*span) for span in spans]
  assert [wait() for wait in waiting] == [DATA[a : a + n] for a, n in spans]
  file.close()
  assert file.read(1, 2) == DATA[1:3]
  assert pickle.loads(pickle.dumps(file)).read(1, 2) == DATA[1:3]


def test_the_end_of_a_file(path):
  for start, kept in ((767, 1), (768, 0), (9999, 0)):
    with pytest.raises(
      ValueError, match=f'^the file ends after {kept} of the 2 bytes to read$'
    ) as e:
      RangeFile(path).read(start, 2)
    assert not isinstance(e.value, InputError)


def test_a_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError):
    RangeFile(str(tmp_path / 'no')).read(0, 1)
  for read in (lambda f: f.read(0, 1), lambda f: f.size()):
    with pytest.raises(
      InputError, match='^Cannot read memory://ranges/no: no such file. Check the address.$'
    ):
      read(RangeFile('memory://ranges/no'))
