"""The index of tar files: formats, its own file, and damaged tars."""

import gzip
import io
import os
import subprocess
import tarfile

import numpy as np
import pytest

from tests.helpers.shapes import png
from tests.helpers.tars import cls_sample, write_shards, write_tar
from vit_jax.data import tar_index
from vit_jax.data.tar_index import INDEX_FILE, read_indices
from vit_jax.errors import InputError


def index_of(path):
  (index,) = read_indices([str(path)])
  return index


def images(path):
  """Return {key: image} as the index finds them."""
  index, data = index_of(path), path.read_bytes()
  return {
    key.decode(): data[start : start + length] if length >= 0 else None
    for key, start, length in zip(index.keys, index.offsets, index.lengths)
  }


@pytest.mark.parametrize('kind', [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_all_formats_of_tar(tmp_path, kind):
  path = tmp_path / 'a.tar'
  long = 'd' * 90 + '/' + 'k' * 60 if kind == tarfile.USTAR_FORMAT else 'k' * 300
  keys = ['a/1', './b', 'ü日', long]
  members = [member for i, key in enumerate(keys) for member in cls_sample(key, png(i), i)]
  write_tar(path, members, format=kind)
  assert images(path) == {key: png(i) for i, key in enumerate(keys)}
  index = index_of(path)
  assert index.labels.tolist() == [0, 1, 2, 3] and not index.several.any()


def test_a_tar_made_by_the_program_tar(tmp_path):
  for i in range(5):
    (tmp_path / 'in' / 'x').mkdir(parents=True, exist_ok=True)
    for name, content in cls_sample(f'in/x/{i}', png(i), i):
      (tmp_path / name).write_bytes(content)
  (tmp_path / 'in' / 'x' / '._1.png').write_bytes(b'as macOS writes')
  (tmp_path / 'in' / 'README').write_bytes(b'')
  # All images, then all labels: still the same samples.
  names = [f'x/{i}.{kind}' for kind in ('png', 'cls') for i in range(5)]
  subprocess.run(
    ['tar', 'cf', '../a.tar', 'README', 'x/._1.png', *names], cwd=tmp_path / 'in', check=True
  )
  assert images(tmp_path / 'a.tar') == {f'x/{i}': png(i) for i in range(5)}
  assert index_of(tmp_path / 'a.tar').labels.tolist() == list(range(5))


def test_which_member_is_the_image_and_which_the_label(tmp_path):
  path = tmp_path / 'a.tar'
  members = [
    ('1.seg.png', b'mask'),
    ('1.png', b'second choice'),
    ('1.JPG', b'image'),
    ('1.json', b'{"label": 5, "width": 7}'),
    ('1.cls', b' 3\n'),
    ('2.webp', b'two'),
    ('2.json', b'{"caption": "x", "class": "4"}'),
    ('3.webp', b'three'),
    ('3.json', b'{"label": null}'),
    ('4.cls', b'1'),
    ('5.png', b'five'),
    ('6.cls', b'-1'),
    ('6.png', b''),
    ('LICENSE.txt', b'not a sample'),
  ]
  write_tar(path, members)
  assert images(path) == {
    '1': b'image',
    '2': b'two',
    '3': b'three',
    '4': None,
    '5': b'five',
    '6': b'',
  }
  index = index_of(path)
  assert index.num_labels.tolist() == [1, 1, -1, 1, -1, -1] and index.labels.tolist() == [3, 4, 1]


def test_lists_of_labels(tmp_path):
  write_tar(
    tmp_path / 'a.tar',
    [('1.json', b'[1, 2]'), ('2.json', b'{"label": []}'), ('3.json', b'{"labels": ["7"]}')],
  )
  index = index_of(tmp_path / 'a.tar')
  assert index.several.all()
  assert index.num_labels.tolist() == [2, 0, 1] and index.labels.tolist() == [1, 2, 7]


def test_names_as_labels(tmp_path):
  write_tar(tmp_path / 'a.tar', [('1.cls', 'ü'.encode()), ('2.json', b'{"cls": ["a", "\\u00fc"]}')])
  index = index_of(tmp_path / 'a.tar')
  assert index.names.tolist() == [b'a', 'ü'.encode()] and index.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
  'member, message',
  [
    (('1.json', b'{"label"'), 'holds 1.json, which cannot be read: '),
    (('1.cls', b'\xff'), 'holds 1.cls, which cannot be read: '),
    (('1.json', b'{"label": 1.5}'), 'holds the label 1.5 in 1.json, which is neither a number nor'),
    (('1.json', b'{"label": [true]}'), 'holds the label True in 1.json, which is neither a number'),
    (
      ('1.json', b'{"label": [1, "a"]}'),
      'Some labels in .* are numbers, and others are names such',
    ),
  ],
)
def test_labels_that_cannot_be_read(tmp_path, member, message):
  write_tar(tmp_path / 'a.tar', [member])
  with pytest.raises(InputError, match=message):
    index_of(tmp_path / 'a.tar')


def test_two_files_of_one_name(tmp_path):
  path = tmp_path / 'a.tar'
  write_tar(path, [*cls_sample('1', png(1), 1), *cls_sample('1', png(2), 2)])
  with pytest.raises(InputError) as e:
    index_of(path)
  assert str(e.value) == (
    f'{path} holds two files 1.cls. Make the shard again, with a name of its own for every sample.'
  )


# Damaged tars.


@pytest.fixture
def tar(tmp_path):
  write_shards(tmp_path, 'a', 1, 10)
  return tmp_path / 'a-000.tar'


def test_every_truncated_tar_is_refused(tar):
  """Whatever the place of the cut, no image is left out silently."""
  data = tar.read_bytes()
  end = len(data.rstrip(b'\0')) // 512 * 512 + 512  # of the last file
  for size in [0, 1, 511, 512, 513, *range(1024, end, 512), end - 1, end, end + 100]:
    tar.write_bytes(data[:size])
    with pytest.raises(InputError, match=f'{tar}.* Copy it again'):
      index_of(tar)
  tar.write_bytes(data[:end])
  with pytest.raises(InputError) as e:
    index_of(tar)
  assert str(e.value) == (
    f'The shard {tar} is cut short, because it has no end marker at byte {end:,}. Copy it again.'
  )
  tar.write_bytes(data[: end + 512])  # the shortest end
  assert len(index_of(tar).keys) == 10


def test_a_damaged_header_and_data_behind_the_end(tar):
  data = tar.read_bytes()
  for damaged in (data[:3072] + b'x' + data[3073:], data + data):
    tar.write_bytes(damaged)
    with pytest.raises(InputError, match=f'{tar}.* at byte .*Copy it again'):
      index_of(tar)


def test_what_is_no_tar(tar):
  for content in (gzip.compress(tar.read_bytes()), b'x' * 5000, b'version https://git-lfs.github'):
    tar.write_bytes(content)
    with pytest.raises(InputError, match=f'Cannot read the shard {tar}: .* without compression'):
      index_of(tar)
  tar.unlink()
  tar.mkdir()
  with pytest.raises(InputError, match=f'Cannot read the shard {tar}: Is a directory. Check its'):
    index_of(tar)
  with pytest.raises(InputError, match='nowhere: No such file or directory. Check the path.'):
    index_of(tar / 'nowhere')


# The file of the index.


@pytest.fixture
def reads(monkeypatch):
  """Return the names of the tars that are indexed."""
  names = []
  index_tar = tar_index._index_tar
  monkeypatch.setattr(
    tar_index, '_index_tar', lambda path: (names.append(os.path.basename(path)), index_tar(path))[1]
  )
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
  assert reads == ['a-000.tar', 'a-001.tar'] and (tmp_path / INDEX_FILE).exists()
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
  replacing = tar_index.replacing

  def refuse(file):
    if str(file).startswith(str(data)):
      raise InputError(f'Cannot write {file}: permission denied. Choose another path.')
    return replacing(file)

  monkeypatch.setattr(tar_index, 'replacing', refuse)
  monkeypatch.setenv('XDG_CACHE_HOME', str(cache))
  first = read_indices([path])
  assert equal(read_indices([path]), first) and len(reads) == 1
  (file,) = cache.rglob('*.npz')
  messages.clear()
  file.write_bytes(b'damaged')
  assert equal(read_indices([path]), first) and len(reads) == 2
  assert messages[0].startswith(f'{file} cannot be read and is made again: ')


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


def test_the_webdataset_library(tmp_path):
  """Shards that the library writes, with the labels that its decoder reads."""
  webdataset = pytest.importorskip('webdataset', reason='the library webdataset is not installed')
  with webdataset.TarWriter(str(tmp_path / 'a.tar')) as writer:
    for i in range(6):
      writer.write({'__key__': f'{i:03}', 'png': png(i), 'cls': i % 3})
  assert images(tmp_path / 'a.tar') == {f'{i:03}': png(i) for i in range(6)}
  assert index_of(tmp_path / 'a.tar').labels.tolist() == [0, 1, 2, 0, 1, 2]
  with tarfile.open(fileobj=io.BytesIO((tmp_path / 'a.tar').read_bytes())) as tar:
    assert len(tar.getnames()) == 12
