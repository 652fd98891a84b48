"""Requests to remote storage: many at once, repeated when they fail, and explained at the end."""

import concurrent.futures
import socket
import ssl
import threading
import time
import types

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
import pytest

from tests.helpers.request_errors import ParamValidationError, caused
from vit_jax.data import remote, storage
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

  def pipe_file(self, path, value, **kwargs):
    if self.failures:
      raise self.failures.pop(0)
    return super().pipe_file(path, value, **kwargs)


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


@pytest.mark.parametrize(
  'failure, message',
  [
    (Refused(403), r'access denied \(HTTP 403 Forbidden\)\. Check the address\.'),
    (
      KeyError('x'),
      r"'x' \(1 tries in 0 s\)\. Check your network connection and the state of the ",
    ),
    (ValueError('odd'), r'odd\. Check the address and your access to it\.'),
    (FileNotFoundError(), r'no such file\. Check the address\.'),
  ],
)
def test_a_failed_write_says_so(flaky, monkeypatch, failure, message):
  monkeypatch.setattr(remote, '_PATIENCE', 0)
  flaky.failures = [failure]
  with pytest.raises(InputError, match=f'^Cannot write flaky://b/x: {message}'):
    remote.write_file('flaky://b/x', b'abc')


def test_a_denied_file_that_may_be_missing_counts_as_missing(flaky, messages):
  """S3 answers 403 for an object that does not exist if this user may not list the bucket."""
  flaky.failures = [Refused(403), PermissionError('denied')]
  storage._denied.clear()
  assert storage.read('flaky://b/x') is storage.read('flaky://b/y') is None
  assert not flaky.failures
  assert messages == [
    'Cannot read flaky://b/x: access denied (HTTP 403 Forbidden). Check the address. The run goes '
    'on without it, as if it did not exist.'
  ]
  assert storage.read('flaky://b/x') == b'abc'


@pytest.mark.parametrize(
  'error',
  [
    caused(ssl.SSLCertVerificationError(1, 'certificate verify failed')),
    caused(socket.gaierror(socket.EAI_NONAME, 'Name or service not known')),
    ParamValidationError('Parameter validation failed'),
  ],
)
def test_failures_that_never_pass_are_named_at_once(flaky, error):
  flaky.failures = [error, Refused(503)]
  with pytest.raises(InputError, match='^Cannot read flaky://b/x: .* Check the address and your '):
    remote.start_reading('flaky://b/x')()
  assert len(flaky.failures) == 1


def test_a_name_server_that_is_busy_is_asked_again(flaky):
  flaky.failures = [caused(socket.gaierror(socket.EAI_AGAIN, 'Temporary failure'))]
  assert remote.start_reading('flaky://b/x')() == b'abc'


def test_blocking_requests_do_not_wait_for_one_another(flaky, monkeypatch):
  for _ in range(100):
    remote.start_reading('flaky://b/x')()
  count = 40  # more than the event loop has threads
  together = threading.Barrier(count)
  monkeypatch.setattr(flaky, 'cat_file', lambda *args, **kwargs: together.wait(20))
  monkeypatch.setattr(remote, '_PATIENCE', 0)
  waiting = [remote.start_reading('flaky://b/x') for _ in range(count)]
  assert sorted(wait() for wait in waiting) == list(range(count))


def test_the_time_of_a_blocking_request_counts_from_its_begin(flaky, monkeypatch):
  """A request that waits for a thread is not sent again."""
  pool = concurrent.futures.ThreadPoolExecutor(1)
  monkeypatch.setattr(remote, '_threads', lambda process: pool)
  monkeypatch.setattr(remote, 'TIMEOUT', 0.5)
  monkeypatch.setattr(remote, '_PATIENCE', 0)
  busy = threading.Event()
  pool.submit(busy.wait)
  waiting = remote.start_reading('flaky://b/x')
  time.sleep(1)
  busy.set()
  assert waiting() == b'abc'


def test_a_call_that_hangs_is_named(flaky, monkeypatch):
  pool = concurrent.futures.ThreadPoolExecutor(1)
  hang = threading.Event()
  monkeypatch.setattr(remote, '_threads', lambda process: pool)
  monkeypatch.setattr(remote, 'TIMEOUT', 0.1)
  monkeypatch.setattr(remote, '_QUEUE', 0.1)
  monkeypatch.setattr(remote, '_PATIENCE', 0.2)
  monkeypatch.setattr(flaky, 'cat_file', lambda *args, **kwargs: hang.wait(20))
  with pytest.raises(InputError, match='^Cannot read flaky://b/x: no answer within 60 seconds '):
    remote.start_reading('flaky://b/x')()
  hang.set()


def test_a_machine_that_allows_few_threads(flaky, monkeypatch):
  """The threads that were started end, because Python waits for them when it exits."""
  start, started = threading.Thread.start, []

  def limited(thread):
    if len(started) == 5:
      raise RuntimeError("can't start new thread")
    started.append(thread)
    start(thread)

  remote._threads.cache_clear()
  monkeypatch.setattr(threading.Thread, 'start', limited)
  with pytest.raises(RuntimeError, match="^can't start new thread$"):
    remote.start_reading('flaky://b/x')()
  for thread in started:
    thread.join(10)
  assert len(started) == 5 and not any(thread.is_alive() for thread in started)


def test_listing(flaky):
  remote.write_file('flaky://b/d/y', b'12')
  assert remote.list_directory('flaky://b') == {'x': (False, 3), 'd': (True, None)}
  assert remote.list_directory('flaky://b/d/') == {'y': (False, 2)}
  assert remote.list_directory('flaky://b/x') == {}
  assert remote.list_directory('flaky://nowhere') == {}


def test_an_unknown_kind_of_address():
  with pytest.raises(InputError, match='^Cannot read what://b/x: .*Protocol not known: what'):
    remote.start_reading('what://b/x')
