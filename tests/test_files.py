import functools
import http.server
import json
import logging
import pathlib
import shutil
import threading

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

  def fill(self, text):
    with open(self, 'w') as f:
      f.write(text[:2])
    raise OSError('No space left on device')

  monkeypatch.setattr(pathlib.Path, 'write_text', fill)
  with pytest.raises(OSError, match='No space left'):
    files.write_whole(path, 'third')
  assert path.read_bytes() == b'second'


def test_make_directory(tmp_path):
  assert files.make_directory(tmp_path / 'a' / 'b') == tmp_path / 'a' / 'b'
  assert (tmp_path / 'a' / 'b').is_dir()
  assert files.make_directory(tmp_path / 'a' / 'b') == tmp_path / 'a' / 'b'  # it exists already
  (tmp_path / 'file').touch()
  words = f'^Cannot write to {tmp_path}/file: File exists. Choose another path.$'
  with pytest.raises(InputError, match=words):
    files.make_directory(tmp_path / 'file')
