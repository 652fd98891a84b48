"""Requests to remote storage: many at once, repeated when they fail, and explained at the end."""

import types

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
import pytest

from vit_jax.data import remote
from vit_jax.errors import InputError


class Refused(Exception):
  """An error as gcsfs and aiohttp raise them."""

  def __init__(self, status):
    super().__init__('refused')
    self.status = status


class FlakyFileSystem(MemoryFileSystem):
  """Files in memory. Reading raises what is in `failures` first."""

  protocol = 'flaky'
  store, pseudo_dirs = {}, ['']
  failures = []

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.replace('flaky://', 'memory://'))

  def cat_file(self, path, start=None, end=None, **kwargs):
    if self.failures:
      raise self.failures.pop(0)
    return super().cat_file(path, start, end, **kwargs)


@pytest.fixture
def flaky(monkeypatch):
  """Return the file system behind flaky://, which holds the file flaky://b/x."""
  fsspec.register_implementation('flaky', FlakyFileSystem, clobber=True)
  monkeypatch.setattr(FlakyFileSystem, 'failures', [])
  monkeypatch.setattr(remote, '_WAIT', 0.001)
  remote.write_file('flaky://b/x', b'abc')
  return FlakyFileSystem


PASSING = [Refused(429), Refused(503), ConnectionResetError('reset'), TimeoutError(), Refused(408)]


def test_failures_that_pass_are_tried_again(flaky):
  flaky.failures = list(PASSING)
  assert remote.start_reading('flaky://b/x', 1, 3)() == b'bc'
  assert not flaky.failures


def test_failures_that_do_not_pass_are_named(flaky, monkeypatch):
  monkeypatch.setattr(remote, '_PATIENCE', 0.05)
  flaky.failures = [Refused(503)] * 99
  with pytest.raises(
    InputError,
    match=r'^Cannot read flaky://b/x: HTTP 503 Service Unavailable \(\d+ tries in 0 s\). Check '
    'your network connection and the state of the storage service, and run the same command again.',
  ):
    remote.start_reading('flaky://b/x')()
  assert 80 < len(flaky.failures) < 97


@pytest.mark.parametrize(
  'error', [Refused(403), Refused(401), PermissionError('denied'), OSError('Forbidden: x')]
)
def test_a_refusal_is_not_tried_again(flaky, error):
  flaky.failures = [error, Refused(503)]
  with pytest.raises(
    InputError, match=r'^Cannot read flaky://b/x: access denied \(.+\)\. Check the address\.$'
  ):
    remote.start_reading('flaky://b/x')()
  assert len(flaky.failures) == 1


class HubError(OSError):
  """An error as huggingface_hub raises it."""

  def __init__(self, status):
    super().__init__('Access to this repository is restricted.')
    self.response = types.SimpleNamespace(status_code=status)


def test_a_gated_repository_of_the_hub(flaky, monkeypatch):
  connect = remote.connect
  monkeypatch.setattr(remote, 'connect', lambda protocol, process: connect('flaky', process))
  flaky.failures = [HubError(403), HubError(503)]
  with pytest.raises(InputError) as e:
    remote.start_reading('hf://datasets/a/b/c.tar')()
  assert str(e.value) == (
    'Cannot read hf://datasets/a/b/c.tar: access denied (HTTP 403 Forbidden). Check the address, '
    'or log in with `hf auth login`.'
  )
  assert remote.start_reading('flaky://b/x')() == b'abc'  # the 503 is tried again
  assert not flaky.failures


def test_nothing_is_written_to_the_hub():
  with pytest.raises(InputError) as e:
    remote.write_file('hf://datasets/a/b/vit_jax_index.npz', b'')
  assert str(e.value) == (
    'Cannot write hf://datasets/a/b/vit_jax_index.npz: it is on the hub. Write to another place.'
  )


def test_listing(flaky):
  remote.write_file('flaky://b/d/y', b'12')
  assert remote.list_directory('flaky://b') == {'x': (False, 3), 'd': (True, None)}
  assert remote.list_directory('flaky://b/d/') == {'y': (False, 2)}
  assert remote.list_directory('flaky://b/x') == {}
  assert remote.list_directory('flaky://nowhere') == {}


def test_an_unknown_kind_of_address():
  with pytest.raises(InputError, match='^Cannot read what://b/x: .*Protocol not known: what'):
    remote.start_reading('what://b/x')
