import functools
import http.server
import io
import json
import logging
import os
import pathlib
import pwd
import resource
import shutil
import socket
import struct
import threading
from unittest.mock import Mock
import zlib

from etils.epath import backend
import fsspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers.paths import FILES
from vit_jax import files
from vit_jax.errors import InputError
from vit_jax.pretrained.formats import read_arrays, read_checkpoint, read_class_names

DATA = FILES


class Handler(http.server.SimpleHTTPRequestHandler):
  cut = False

  def log_message(self, *args):
    pass

  def send_header(self, name, value):
    if name == 'Content-Length' and self.cut:  # promises more than it sends
      value = '999999'
    super().send_header(name, value)

  def do_GET(self):
    if self.path.startswith('/private'):
      self.send_error(403)
    elif self.path.startswith('/broken'):
      self.send_error(500)
    else:
      self.cut = self.path.startswith('/cut')
      self.path = self.path.removeprefix('/cut')
      super().do_GET()


@pytest.fixture
def site(tmp_path, monkeypatch):
  """Serve a directory as a web site. Return (address, directory)."""
  monkeypatch.setenv('no_proxy', '*')
  monkeypatch.setattr(files, '_TIMEOUT', 5)
  monkeypatch.setattr(files, '_WAIT', 0)
  directory = tmp_path / 'site'
  directory.mkdir()
  handler = functools.partial(Handler, directory=str(directory))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f'http://127.0.0.1:{server.server_address[1]}', directory
    server.shutdown()


def test_a_file_of_a_web_site(site):
  address, directory = site
  shutil.copy(DATA / 'vit_token.npz', directory)
  expected = read_arrays(DATA / 'vit_token.npz')
  np.testing.assert_equal(read_arrays(f'{address}/vit_token.npz'), expected)
  np.testing.assert_equal(read_arrays(f'{address}/vit_token.npz?download=true'), expected)


def test_a_directory_of_a_web_site_or_its_file(site):
  address, directory = site
  shutil.copytree(DATA / 'hf_tiny', directory / 'hf')
  config = json.loads((directory / 'hf' / 'config.json').read_text())
  names = [f'c{i}' for i in range(10)]
  config['id2label'] = dict(enumerate(names))
  (directory / 'hf' / 'config.json').write_text(json.dumps(config))
  for name in ('hf', 'hf/', 'hf/model.safetensors'):
    arrays, metadata = read_checkpoint(f'{address}/{name}')
    np.testing.assert_equal(arrays, read_arrays(DATA / 'hf_tiny'))
    assert (metadata.num_heads, metadata.class_names) == (4, names)
    assert read_class_names(f'{address}/{name}') == names


def test_shards_of_a_web_site(site):
  address, directory = site
  tensors = load_file(DATA / 'hf_tiny' / 'model.safetensors')
  halves = {k: f'{"ab"[i % 2]}.safetensors' for i, k in enumerate(tensors)}
  for file in ('a.safetensors', 'b.safetensors'):
    save_file({k: v for k, v in tensors.items() if halves[k] == file}, directory / file)
  (directory / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': halves}))
  for name in (address, f'{address}/model.safetensors.index.json'):
    np.testing.assert_equal(
      read_checkpoint(name, num_heads=4).arrays, read_arrays(DATA / 'hf_tiny')
    )
  (directory / 'b.safetensors').unlink()
  with pytest.raises(ValueError, match=f'Cannot download {address}/b.safetensors: HTTP 404'):
    read_arrays(address)


def test_public_buckets_need_no_package(site, monkeypatch):
  address, directory = site
  monkeypatch.setattr(files, '_PUBLIC_BUCKETS', f'{address}/')
  monkeypatch.setattr(files.importlib.util, 'find_spec', lambda name: None)
  (directory / 'bucket').mkdir()
  shutil.copy(DATA / 'vit_token.npz', directory / 'bucket' / 'B_16 + x.npz')
  np.testing.assert_equal(
    read_arrays('gs://bucket/B_16 + x.npz'), read_arrays(DATA / 'vit_token.npz')
  )
  with pytest.raises(
    ValueError,
    match='Cannot download gs://private/a.npz: HTTP 403 .*private, run: pip install gcsfs',
  ):
    read_arrays('gs://private/a.npz')


def test_damage_is_named_by_its_address(site):
  address, directory = site
  (directory / 'a.npz').write_bytes(b'<html>')
  with pytest.raises(
    ValueError, match=f'^Cannot read {address}/a.npz as an npz file of arrays: it is a web page.'
  ):
    read_arrays(f'{address}/a.npz')
  shutil.copy(DATA / 'vit_token.npz', directory)
  with pytest.raises(
    ValueError, match=r'cut/vit_token.npz ended after [\d,]+ of 999,999 bytes. Try'
  ):
    read_arrays(f'{address}/cut/vit_token.npz')


@pytest.mark.parametrize(
  'path, words',
  [
    ('none.npz', 'Cannot download .*/none.npz: HTTP 404 File not found. Check the address.'),
    ('broken.npz', 'Cannot download .*/broken.npz: HTTP 500 .*. Try again later.'),
    ('none', 'none has neither model.safetensors nor model.safetensors.index.json. To load an'),
  ],
)
def test_what_is_not_there_is_named(site, path, words):
  with pytest.raises(ValueError, match=words):
    read_arrays(f'{site[0]}/{path}')


@pytest.mark.parametrize(
  'address, words',
  [
    ('http://127.0.0.1:9/a.npz', 'Cannot download http://127.0.0.1:9/a.npz: .*refused. Check'),
    (
      'https://no.such.host.invalid/a.npz',
      'Cannot download https://no.such.host.invalid/a.npz: .* your network connection.',
    ),
    ('nothing://a/b.npz', 'Cannot read nothing://a/b.npz: Protocol not known'),
  ],
)
def test_an_address_without_an_answer_is_named(address, words, monkeypatch):
  monkeypatch.setenv('no_proxy', '*')
  monkeypatch.setattr(files, '_WAIT', 0)
  with pytest.raises(ValueError, match=words):
    read_arrays(address)


def test_a_missing_package_is_named(monkeypatch):
  def missing(*args, **kwargs):
    raise ImportError('Install s3fs to access S3')

  monkeypatch.setattr(fsspec, 'url_to_fs', missing)
  with pytest.raises(
    ValueError, match='Cannot read s3://b/a.npz: a package is missing .Install s3fs'
  ):
    read_arrays('s3://b/a.npz')


def test_other_file_systems_of_fsspec(caplog):
  caplog.set_level(logging.INFO, 'vit_jax')
  memory = fsspec.filesystem('memory')
  memory.pipe('/dir/a.npz', (DATA / 'vit_token.npz').read_bytes())
  np.testing.assert_equal(read_arrays('memory://dir/a.npz'), read_arrays(DATA / 'vit_token.npz'))
  assert caplog.messages == ['Downloading memory://dir/a.npz.']
  with pytest.raises(
    ValueError, match='Cannot read memory://dir/b.npz: no such file. Check the address.'
  ):
    read_arrays('memory://dir/b.npz')


CONTENT = bytes(range(256)) * 1000


class Flaky(http.server.BaseHTTPRequestHandler):
  """Serves CONTENT and breaks the connection. The server's attributes say how."""

  def log_message(self, *args):
    pass

  def do_GET(self):
    rules, request = self.server, (self.path, self.headers.get('Range'))
    rules.requests.append(request)
    rules.agents.append(self.headers['User-Agent'])
    if rules.codes:
      code, headers = rules.codes.pop(0)
      self.send_response(code)
      for header in headers.items():
        self.send_header(*header)
      self.end_headers()
      return
    start, content = 0, rules.content[0] if len(rules.content) == 1 else rules.content.pop(0)
    span = self.headers.get('Range')
    same = self.headers.get('If-Range') in (None, rules.etag(content))
    if span and rules.ranges and same:
      start = int(span.removeprefix('bytes=').removesuffix('-'))
      self.send_response(206)
      self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
    else:
      self.send_response(200)
    if rules.etag(content):
      self.send_header('ETag', rules.etag(content))
    self.send_header('Content-Length', str(len(content) - start))
    self.end_headers()
    self.wfile.write(content[start : start + rules.most])
    self.wfile.flush()
    if rules.reset:  # abort the connection instead of closing it
      linger = struct.pack('ii', 1, 0)
      self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@pytest.fixture
def flaky(monkeypatch):
  monkeypatch.setenv('no_proxy', '*')
  monkeypatch.setattr(files, '_TIMEOUT', 5)
  monkeypatch.setattr(files, '_WAIT', 0)
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Flaky) as server:
    server.requests, server.agents, server.codes, server.content = [], [], [], [CONTENT]
    server.most, server.ranges, server.reset = 100_000, True, False
    server.etag = lambda content: f'"{zlib.crc32(content)}"'
    server.address = f'http://127.0.0.1:{server.server_address[1]}'
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()


@pytest.mark.parametrize('reset', [False, True])
@pytest.mark.parametrize('etag', [True, False])
def test_a_broken_download_goes_on_where_it_was(flaky, tmp_path, etag, reset):
  flaky.reset = reset
  if not etag:
    flaky.etag = lambda content: None
  files.download(f'{flaky.address}/a', tmp_path / 'a')
  assert (tmp_path / 'a').read_bytes() == CONTENT
  assert list(tmp_path.iterdir()) == [tmp_path / 'a']
  assert flaky.requests[0] == ('/a', None) and len(flaky.requests) >= 3
  if not reset:  # what is on its way when a connection is reset may get lost
    ranges = [None, 'bytes=100000-', 'bytes=200000-']
    assert flaky.requests == [('/a', span) for span in ranges]


def test_a_file_that_changes_meanwhile_is_read_from_its_start(flaky, tmp_path):
  flaky.content = [CONTENT, CONTENT[::-1], CONTENT[::-1], CONTENT[::-1]]
  files.download(f'{flaky.address}/a', tmp_path / 'a')
  assert (tmp_path / 'a').read_bytes() == CONTENT[::-1]
  assert [span for _, span in flaky.requests][:2] == [None, 'bytes=100000-']


def test_a_server_without_ranges_is_asked_for_the_whole_file_again(flaky, tmp_path):
  flaky.ranges = False
  with pytest.raises(InputError) as e:
    files.download(f'{flaky.address}/a', tmp_path / 'a')
  assert str(e.value) == (
    f'The download of {flaky.address}/a ended after 100,000 of 256,000 bytes. Try again.'
  )
  assert not list(tmp_path.iterdir()) and len(flaky.requests) == 3


def test_a_failed_download_leaves_the_file_that_was_there(flaky, tmp_path):
  (tmp_path / 'a').write_bytes(b'old')
  flaky.codes = [(500, {})] * 3
  with pytest.raises(InputError, match='HTTP 500 Internal Server Error. Try again later.$'):
    files.download(f'{flaky.address}/a', tmp_path / 'a')
  assert (tmp_path / 'a').read_bytes() == b'old' and list(tmp_path.iterdir()) == [tmp_path / 'a']


def test_a_busy_server_is_asked_again_when_it_says(flaky, tmp_path, monkeypatch):
  waits = []
  monkeypatch.setattr(files.time, 'sleep', waits.append)
  flaky.codes = [(429, {'Retry-After': '3'}), (503, {})]
  flaky.most = len(CONTENT)
  files.download(f'{flaky.address}/a', tmp_path / 'a')
  assert (tmp_path / 'a').read_bytes() == CONTENT and waits == [3, 0]


def test_access_that_is_denied_is_not_tried_again(flaky, tmp_path):
  flaky.codes = [(401, {})]
  with pytest.raises(InputError) as e:
    files.download(f'{flaky.address}/a', tmp_path / 'a')
  assert str(e.value) == (
    f'Cannot download {flaky.address}/a: HTTP 401 Unauthorized. Check the address and your access '
    'to it.'
  )
  assert len(flaky.requests) == 1


@pytest.mark.parametrize(
  'path, request_path',
  [
    ('Müller & Söhne/日本.jpg', '/M%C3%BCller%20&%20S%C3%B6hne/%E6%97%A5%E6%9C%AC.jpg'),
    ('M%C3%BCller%20a.jpg?q=ä&b=%20', '/M%C3%BCller%20a.jpg?q=%C3%A4&b=%20'),
    ('100%/a b(1).jpg', '/100%25/a%20b(1).jpg'),
    ('caf\udce9.jpg', '/caf%E9.jpg'),
  ],
)
def test_addresses_are_quoted_once_and_the_program_gives_its_name(
  flaky, tmp_path, path, request_path
):
  flaky.most = len(CONTENT)
  files.download(f'{flaky.address}/{path}', tmp_path / 'a')
  assert flaky.requests == [(request_path, None)]
  assert [agent.split('/')[0] for agent in flaky.agents] == [
    'vit_jax (Vision Transformers in JAX) Python-urllib'
  ]


def test_servers_are_quoted_as_domain_names():
  assert files._quote('https://u@bücher.example:80/a') == 'https://u@xn--bcher-kva.example:80/a'
  long = 'ä' * 70
  with pytest.raises(InputError, match=f'^Cannot download https://{long}/a: .*. Check the address'):
    files._quote(f'https://{long}/a')


def test_a_full_disk_is_not_taken_for_a_broken_network(flaky, tmp_path):
  flaky.most = len(CONTENT)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
  try:
    with pytest.raises(files.CannotStore) as e:
      files.download(f'{flaky.address}/a', tmp_path / 'a')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert str(e.value) == (
    f'Cannot store {flaky.address}/a in {tmp_path}: File too large. Free some space there, or set '
    'TMPDIR to a directory on another disk.'
  )
  assert len(flaky.requests) == 1 and not list(tmp_path.iterdir())


def test_a_broken_read_of_fsspec_goes_on(tmp_path, monkeypatch):
  memory = fsspec.filesystem('memory')
  memory.pipe('/flaky', CONTENT)
  reads = []

  def open_flaky(path, mode):
    file = io.BytesIO(CONTENT)
    file.read = functools.partial(read_or_fail, file)
    return file

  def read_or_fail(file, size):
    reads.append(file.tell())
    if len(reads) % 2 == 0:
      raise OSError('the connection was reset')
    return io.BytesIO.read(file, 100_000)

  monkeypatch.setattr(type(memory), 'open', lambda self, path, mode: open_flaky(path, mode))
  monkeypatch.setattr(files, '_WAIT', 0)
  files.download('memory://flaky', tmp_path / 'a')
  assert (tmp_path / 'a').read_bytes() == CONTENT
  assert reads == [0, 100_000, 100_000, 200_000, 200_000, 256_000, 256_000]


@pytest.mark.parametrize(
  'error, tries, words',
  [
    (
      OSError('reset'),
      3,
      'Cannot read memory://a: reset. Check the address and your access to it.',
    ),
    (PermissionError('denied'), 1, 'Cannot read memory://a: denied. Check the address and your '),
    (FileNotFoundError('a'), 1, 'Cannot read memory://a: no such file. Check the address.'),
    (ImportError('get x'), 1, 'Cannot read memory://a: a package is missing (get x).'),
  ],
)
def test_opening_with_fsspec_is_tried_again_if_that_may_help(
  tmp_path, monkeypatch, error, tries, words
):
  memory = fsspec.filesystem('memory')
  memory.pipe('/a', CONTENT)
  opened, fails = [], [error] * 3

  def open_or_fail(self, path, mode):
    opened.append(path)
    if fails:
      raise fails.pop()
    return io.BytesIO(CONTENT)

  monkeypatch.setattr(type(memory), 'open', open_or_fail)
  monkeypatch.setattr(files, '_WAIT', 0)
  with pytest.raises(InputError) as e:
    files.download('memory://a', tmp_path / 'a')
  assert str(e.value).startswith(words) and len(opened) == tries
  fails[:] = [error] * (tries - 1)
  files.download('memory://a', tmp_path / 'a')
  assert (tmp_path / 'a').read_bytes() == CONTENT and len(opened) == 2 * tries
  fails[:] = [MemoryError()]
  with pytest.raises(MemoryError):  # it says nothing about the address
    files.download('memory://a', tmp_path / 'a')


def test_a_short_read_of_fsspec_is_not_the_whole_file(tmp_path, monkeypatch):
  memory = fsspec.filesystem('memory')
  starts = []

  def open_short(self, path, mode):
    file = Mock(size=len(CONTENT), seek=starts.append)
    file.read.side_effect = lambda size: (
      CONTENT[starts[-1] :][:100_000] * (file.read.call_count < 2)
    )
    return file

  monkeypatch.setattr(type(memory), 'open', open_short)
  monkeypatch.setattr(files, '_WAIT', 0)
  files.download('memory://short', tmp_path / 'a')
  assert (tmp_path / 'a').read_bytes() == CONTENT and starts == [0, 100_000, 200_000]


def test_no_home(monkeypatch):
  def unknown(uid):
    raise KeyError(f'getpwuid(): uid not found: {uid}')

  monkeypatch.delenv('HOME')
  monkeypatch.setattr(pwd, 'getpwuid', unknown)
  assert files.user_path('a') == pathlib.Path('a')
  assert files.user_path('~draft.jpg') == pathlib.Path('~draft.jpg')  # no user has this name
  with pytest.raises(InputError) as e:
    files.user_path('~/tensorflow_datasets')
  assert str(e.value) == (
    'Cannot find ~/tensorflow_datasets: the home directory of this user is unknown. Set the '
    'environment variable HOME, or give a path without ~.'
  )


def test_paths_of_any_kind(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert files.any_path('~/a') == tmp_path / 'a'
  assert str(files.any_path('gs://bucket/a')) == 'gs://bucket/a'
  with pytest.raises(InputError) as e:
    files.any_path('https://host/a')
  assert str(e.value) == ('https://host/a cannot be written. Give a local path, gs:// or s3://.')


def test_paths(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  assert files.user_path('~/a') == tmp_path / 'a' and files.user_path('a') == pathlib.Path('a')
  assert files.local_path('a') == files.local_path('~/a') == tmp_path / 'a'
  assert files.is_remote('gs://bucket/a') and not files.is_remote(tmp_path)
  with pytest.raises(
    InputError, match='^Cannot write to gs://bucket/a: it is a remote address. Write'
  ):
    files.local_path('gs://bucket/a')


def test_a_file_is_replaced_only_when_all_went_well(tmp_path):
  path = tmp_path / 'new' / 'a.txt'
  with files.replacing(path) as temporary:
    temporary.write_text('first')
    assert not path.exists() and temporary.parent == path.parent
  with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
    temporary.write_text('half')
    raise ZeroDivisionError
  assert path.read_text() == 'first' and list(path.parent.iterdir()) == [path]
  words = f'^Cannot write {path}/b: .* Choose another path.$'
  with pytest.raises(InputError, match=words), files.replacing(path / 'b'):
    pass


def test_text_is_written_whole(tmp_path, monkeypatch):
  path = tmp_path / 'a.json'
  files.write_whole(path, 'first')
  files.write_whole(path, 'second')
  assert path.read_text() == 'second' and list(tmp_path.iterdir()) == [path]

  def fill(self, text, **options):
    with open(self, 'w') as f:
      f.write(text[:2])
    raise OSError('No space left on device')

  monkeypatch.setattr(pathlib.Path, 'write_text', fill)
  with pytest.raises(OSError, match='No space left'):
    files.write_whole(path, 'third')
  assert path.read_bytes() == b'second'


@pytest.mark.parametrize('write', ['write_whole', 'replacing'])
def test_files_are_on_the_disk_before_they_replace_others(tmp_path, monkeypatch, write):
  events = []
  fsync, replace = os.fsync, os.replace

  def record_fsync(descriptor):
    events.append(('fsync', os.fstat(descriptor).st_ino))
    fsync(descriptor)

  def record_replace(source, target):
    events.append(('replace', str(target)))
    replace(source, target)

  monkeypatch.setattr(os, 'fsync', record_fsync)
  monkeypatch.setattr(os, 'replace', record_replace)
  path = tmp_path / f'{"n" * 240}.json'
  if write == 'write_whole':
    files.write_whole(path, 'text')
  else:
    with files.replacing(path) as temporary:
      temporary.write_text('text')
  assert events == [
    ('fsync', path.stat().st_ino),  # renaming a file keeps its inode
    ('replace', str(path)),
    ('fsync', tmp_path.stat().st_ino),
  ]
  assert path.read_text() == 'text'


def test_text_that_utf8_cannot_hold_is_escaped(tmp_path):
  files.write_whole(tmp_path / 'a', 'é caf\udce9')
  assert (tmp_path / 'a').read_bytes() == 'é caf\\udce9'.encode()


def test_text_is_written_to_a_bucket(monkeypatch):
  memory = fsspec.filesystem('memory')  # in the place of gcsfs, below the real paths of buckets
  monkeypatch.setattr(type(backend.fsspec_backend), 'fs', lambda self, path: memory)
  path = files.any_path('gs://bucket/run/é.json')
  assert path._backend is backend.fsspec_backend
  for text in ('first', 'é caf\udce9\n'):
    files.write_whole(path, text)
  assert path.read_bytes() == 'é caf\\udce9\n'.encode()


def test_names_for_a_line_of_text():
  assert files.printable('né 日.png') == 'né 日.png'
  assert files.printable('a\tb\nc') == r'a\tb\nc'
  assert files.printable('caf\udce9\x1b[2J') == r'caf\ufffd\x1b[2J'.replace(r'\ufffd', '\ufffd')


def test_make_directory(tmp_path):
  assert files.make_directory(tmp_path / 'a' / 'b') == tmp_path / 'a' / 'b'
  assert (tmp_path / 'a' / 'b').is_dir()
  assert files.make_directory(tmp_path / 'a' / 'b') == tmp_path / 'a' / 'b'  # it exists already
  (tmp_path / 'file').touch()
  words = f'^Cannot write to {tmp_path}/file: File exists. Choose another path.$'
  with pytest.raises(InputError, match=words):
    files.make_directory(tmp_path / 'file')
