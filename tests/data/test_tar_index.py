"""The index of a tar: formats, labels, and damaged tars."""

import gzip
import io
import subprocess
import tarfile

import pytest

from tests.helpers.shapes import png
from tests.helpers.tars import cls_sample, write_shards, write_tar
from vit_jax.data.tar_index import index_tar
from vit_jax.errors import InputError


def index_of(path):
  return index_tar(str(path), (path.stat().st_size, 7))


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
  for damaged in (data[:3072] + b'x' + data[3073:], data + b'x' * 512):
    tar.write_bytes(damaged)
    with pytest.raises(InputError, match=f'{tar}.* at byte .*Copy it again'):
      index_of(tar)


@pytest.mark.parametrize('kind', [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_one_after_another(tar, kind):
  data = tar.read_bytes()
  write_tar(tar, cls_sample('ü' * 200, png(1), 1), format=kind)  # begins with a long name
  tar.write_bytes(data + tar.read_bytes())
  with pytest.raises(InputError) as e:
    index_of(tar)
  assert str(e.value) == (
    f'The shard {tar} holds several tars one after another: the next begins at byte {len(data):,}. '
    'Split it, so that each file holds one tar.'
  )


def test_what_is_no_tar(tar):
  for content in (gzip.compress(tar.read_bytes()), b'x' * 5000, b'version https://git-lfs.github'):
    tar.write_bytes(content)
    with pytest.raises(InputError, match=f'Cannot read the shard {tar}: .* without compression'):
      index_of(tar)
  tar.unlink()
  tar.mkdir()
  with pytest.raises(InputError, match=f'Cannot read the shard {tar}: Is a directory. Check its'):
    index_of(tar)


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
