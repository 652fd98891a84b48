"""Read data from real servers: slow ones, ones that fail, and emulators of buckets."""

import concurrent.futures
import json
import os
import time
import urllib.request

import numpy as np
import pytest

from tests.helpers.servers import gcs_server, require, s3_server, slow_server
from tests.helpers.shapes import read_all
from tests.helpers.storage import put
from tests.helpers.tars import write_shards
from vit_jax.data import file_tree, remote
from vit_jax.data.open_source import open_source
from vit_jax.data.ranges import RangeFile
from vit_jax.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setenv('no_proxy', '*')


@pytest.fixture
def numbers(tmp_path):
  """Return the bytes of the file `numbers` in a directory that can be served."""
  (tmp_path / 'site').mkdir()
  content = np.arange(2**16, dtype=np.uint32).tobytes()
  (tmp_path / 'site' / 'numbers').write_bytes(content)
  return content


def read_many(address, content, count):
  """Read `count` ranges of the file at the same time, and check them."""
  file = RangeFile(address)
  spans = [(i * 100, 50) for i in range(count)]
  waiting = [file.start(*span) for span in spans]
  assert [wait() for wait in waiting] == [content[a : a + n] for a, n in spans]


def stats(server):
  with urllib.request.urlopen(f'{server}/stats') as answer:
    return json.load(answer)


def test_many_requests_are_in_flight(tmp_path, numbers):
  with slow_server(tmp_path / 'site', delay=0.1) as server:
    read_many(f'{server}/numbers', numbers, 1)
    stats(server)
    begin = time.monotonic()
    read_many(f'{server}/numbers', numbers, 300)
    seconds = time.monotonic() - begin
    counted = stats(server)
  assert counted['requests'] == 300
  assert 50 < counted['most_in_flight'] <= remote.IN_FLIGHT == 100
  assert seconds < 5  # one after another, they would take 30


def test_failures_change_nothing(tmp_path, numbers, monkeypatch):
  monkeypatch.setattr(remote, '_WAIT', 0.01)
  with slow_server(tmp_path / 'site', failures=0.2) as server:
    read_many(f'{server}/numbers', numbers, 300)
    assert stats(server)['requests'] > 350


def test_a_server_that_is_gone(tmp_path, numbers, monkeypatch):
  monkeypatch.setattr(remote, '_WAIT', 0.01)
  monkeypatch.setattr(remote, '_PATIENCE', 0.3)
  with slow_server(tmp_path / 'site') as server:
    read_many(f'{server}/numbers', numbers, 2)
  begin = time.monotonic()
  with pytest.raises(
    InputError,
    match=rf'^Cannot read {server}/numbers: Cannot connect to host .* \(\d+ tries in 0 s\)\. '
    'Check your network connection and the state of the storage service, and run the same command '
    'again.$',
  ):
    read_many(f'{server}/numbers', numbers, 100)
  assert time.monotonic() - begin < 5


def test_a_server_that_comes_back(tmp_path, numbers, monkeypatch):
  """A request that is refused waits for the server."""
  monkeypatch.setattr(remote, '_WAIT', 0.05)
  with slow_server(tmp_path / 'site', failures=1) as server:
    file = RangeFile(f'{server}/numbers')
    with concurrent.futures.ThreadPoolExecutor() as pool:
      waiting = pool.submit(file.read, 0, 10)
      time.sleep(0.5)
      assert not waiting.done()
      urllib.request.urlopen(f'{server}/heal').read()
      assert waiting.result(10) == numbers[:10]


def test_a_server_without_ranges(tmp_path, numbers):
  with (
    slow_server(tmp_path / 'site', whole=1) as server,
    pytest.raises(
      InputError,
      match=f'^Cannot read parts of {server}/numbers: the server sends only whole files. Download '
      'the file.$',
    ),
  ):
    RangeFile(f'{server}/numbers').read(5, 10)


def test_tfds_on_a_web_server(shapes, tmp_path):
  expected = read_all(open_source('shapes', 'train+test', shapes[1]))
  with slow_server(shapes[1]) as server:
    opened = open_source('shapes:1.2.0', 'train+test', server)
    assert read_all(opened) == expected
    assert opened.class_names == ['disc', 'ring', 'star']
    stats(server)
    open_source('shapes:1.2.0', 'train+test', f'{server}/')  # the index is in the user's cache
    assert stats(server)['megabytes'] < 0.01
    with pytest.raises(InputError, match='^The dataset shapes is not in .* give the version, such'):
      open_source('shapes', 'train', server)
  assert len(list((tmp_path / 'cache').rglob('*.npz'))) == 2
  assert not any(name.endswith('.npz') for name in os.listdir(f'{shapes[1]}/shapes/1.2.0'))


def test_a_server_that_denies_what_does_not_exist(shapes, tmp_path):
  """So does S3 if this user may not list the bucket."""
  write_shards(tmp_path / 'tars' / 'below', 'a', 2, 4)
  with slow_server(tmp_path / 'tars', missing=403) as server:
    for _ in range(2):  # the second time, the index is in the user's cache
      opened = open_source(f'wds:{server}/below/a-{{000..001}}.tar', 'train')
      assert len(read_all(opened)) == 8
  with slow_server(shapes[1], missing=403) as server:
    opened = open_source('shapes:1.2.0', 'train', server)
    assert read_all(opened) == read_all(open_source('shapes', 'train', shapes[1]))


@pytest.mark.parametrize('same', ['modified', 'etag'])
def test_the_version_of_a_file_in_a_bucket_or_on_a_web_server(same, monkeypatch):
  """The time of the last change counts only if there is nothing better."""
  info = {'size': 3, 'Last-Modified': 'Monday', 'ETag': None if same == 'modified' else '"a"'}
  monkeypatch.setattr(remote, '_call', lambda *args: info)
  first = remote.file_stamp('s3://b/x')
  info |= {'Last-Modified': 'Tuesday'}
  assert (remote.file_stamp('s3://b/x') == first) == (same == 'etag') and first[0] == 3
  info |= {'Last-Modified': None, 'ETag': None}
  assert remote.file_stamp('s3://b/x') == (3, 0)


@pytest.fixture(scope='module', params=['gs', 's3'])
def bucket(request):
  """Return the address of an empty bucket."""
  with {'gs': gcs_server, 's3': s3_server}[request.param]():
    yield f'{request.param}://bucket'


def test_tfds_in_a_bucket(shapes, bucket, tmp_path):
  put(shapes[1], f'{bucket}/tfds')
  for split in ('train', 'train[5:]+test', 'all'):
    expected = open_source('shapes', split, shapes[1])
    opened = open_source('shapes', split, f'{bucket}/tfds')
    assert read_all(opened) == read_all(expected)
  index = f'{bucket}/tfds/shapes/1.2.0/shapes-train.tfrecord.lengths.npz'
  assert remote.exists(index) and not (tmp_path / 'cache').exists()
  with pytest.raises(InputError, match=f'^The dataset cifar10 is not in {bucket}/tfds. '):
    open_source('cifar10', 'train', f'{bucket}/tfds')


def test_files_and_directories_in_a_bucket(bucket):
  remote.write_file(f'{bucket}/list/x', b'abc')
  remote.write_file(f'{bucket}/list/d/y', b'')
  assert remote.list_directory(f'{bucket}/list') == {'x': (False, 3), 'd': (True, None)}
  assert remote.list_directory(f'{bucket}/list/d/') == {'y': (False, 0)}
  assert 'list' in remote.list_directory(bucket)
  assert remote.list_directory(f'{bucket}/none') == remote.list_directory(f'{bucket}/list/x') == {}
  assert remote.exists(f'{bucket}/list/x') and not remote.exists(f'{bucket}/list/z')
  file = RangeFile(f'{bucket}/list/x')
  assert (file.size(), file.read(1, 2)) == (3, b'bc')
  for start, kept in ((2, 1), (3, 0), (99, 0)):
    with pytest.raises(ValueError, match=f'^the file ends after {kept} of the 2 bytes to read$'):
      file.read(start, 2)
  with pytest.raises(
    InputError, match=f'^Cannot read {bucket}/list/z: no such file. Check the address.$'
  ):
    RangeFile(f'{bucket}/list/z').read(0, 1)


def test_a_file_that_is_replaced_in_a_bucket(bucket):
  remote.write_file(f'{bucket}/version', b'abc')
  first = remote.file_stamp(f'{bucket}/version')
  assert remote.file_stamp(f'{bucket}/version') == first and first[0] == 3 and first[1]
  remote.write_file(f'{bucket}/version', b'abd')
  assert remote.file_stamp(f'{bucket}/version')[0] == 3
  assert remote.file_stamp(f'{bucket}/version') != first


def test_a_missing_bucket(bucket):
  missing = bucket.replace('bucket', 'no-such-bucket')
  with pytest.raises(InputError, match=f'^The dataset cifar10 is not in {missing}. '):
    open_source('cifar10', 'train', missing)


def test_a_folder_in_a_bucket(photos, bucket):
  file_tree._remote_tree.cache_clear()
  put(photos, f'{bucket}/photos')
  for split in ('train', 'val'):
    expected = open_source(str(photos), split)
    opened = open_source(f'{bucket}/photos/', split)
    assert read_all(opened) == read_all(expected)
    assert opened.class_names == expected.class_names
  assert remote.exists(f'{bucket}/photos/{file_tree.LISTING_FILE}')
  file_tree._remote_tree.cache_clear()
  assert read_all(open_source(f'{bucket}/photos', 'val')) == read_all(expected)


def test_s3_without_a_login(monkeypatch):
  require('s3fs', install='s3fs')
  for name in ('ACCESS_KEY_ID', 'SECRET_ACCESS_KEY', 'PROFILE', 'ENDPOINT_URL'):
    monkeypatch.delenv(f'AWS_{name}', raising=False)
  monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
  monkeypatch.setenv('AWS_SHARED_CREDENTIALS_FILE', '/nowhere')
  remote.connect.cache_clear()
  with pytest.raises(
    InputError,
    match=r'^Cannot read s3://private/x: access denied \(Unable to locate credentials\)\. Check '
    'the address, or log in with `aws configure`.$',
  ):
    RangeFile('s3://private/x').read(0, 1)
  remote.connect.cache_clear()
