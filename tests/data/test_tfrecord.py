"""Read TFRecord files by random access. test_tfds.py tests damaged files."""

import os

import pytest

from tests.helpers.shapes import write_tfrecord
from vit_jax.data.tfrecord import TFRecordReader, index_records


def test_index_of_an_empty_record_and_an_empty_file(tmp_path):
  write_tfrecord(tmp_path / 'a', [b'', b'abc'])
  reader = TFRecordReader(str(tmp_path / 'a'))
  assert [reader.read(i) for i in range(reader.num_records())] == [b'', b'abc']
  (tmp_path / 'b').write_bytes(b'')
  assert TFRecordReader(str(tmp_path / 'b')).num_records() == 0
  with pytest.raises(OSError):
    TFRecordReader(str(tmp_path / 'c'))


def test_the_payloads_are_where_the_index_says(tmp_path):
  write_tfrecord(tmp_path / 'a', [b'abc', b'', b'defgh'])
  with open(tmp_path / 'a', 'rb') as f:
    spans = index_records(f.fileno())
    assert spans.tolist() == [[12, 3], [31, 0], [47, 5]]
    assert [os.pread(f.fileno(), n, at) for at, n in spans.tolist()] == [b'abc', b'', b'defgh']


def test_a_file_that_was_cut_after_it_was_opened(tmp_path):
  write_tfrecord(tmp_path / 'a', [b'abc', b'defgh'])
  reader = TFRecordReader(str(tmp_path / 'a'))
  os.truncate(tmp_path / 'a', 34)
  assert reader.read(0) == b'abc'
  with pytest.raises(ValueError, match='^the file ends inside the record$'):
    reader.read(1)
