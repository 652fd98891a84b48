"""A lock file keeps a second process out, until the first has ended."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from etils import epath
import pytest

from tests.helpers.paths import ROOT
from vit_jax.errors import InputError
from vit_jax.parallel import lock as lock_lib
from vit_jax.parallel.lock import Lock


@pytest.fixture(params=['local', 'bucket'])
def path(request, tmp_path, monkeypatch):
  """Return the path of a lock file, on a disk or in a store that is not a pathlib.Path."""
  monkeypatch.setattr(lock_lib, '_SETTLE_SECONDS', 0)
  monkeypatch.setattr(lock_lib, '_PATIENCE_SECONDS', 0.2)
  return (pathlib.Path if request.param == 'local' else epath.Path)(tmp_path / 'lock.json')


def make(path):
  return Lock(path, 'The workdir w', 'Stop it.')


def edit(path, **values):
  """Write a lock file as if this process had written it, except for some values."""
  with make(path):
    holder = json.loads(path.read_text())
  path.write_text(json.dumps(holder | values))
  return holder | values


def refused(path):
  with pytest.raises(InputError) as error, make(path):
    pass
  return str(error.value)


def words(holder):
  started = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(holder['started']))
  return (
    f'The workdir w is in use by process {holder["pid"]} on {holder["host"]}, which started at '
    f'{started}. Stop it.'
  )


def test_the_second_is_refused_until_the_first_has_ended(path):
  with make(path) as first:
    holder = json.loads(path.read_text())
    assert holder['pid'] == os.getpid() and abs(holder['started'] - time.time()) < 5
    assert refused(path) == words(holder)
    first.check()
    assert json.loads(path.read_text()) == holder
  assert not path.exists()
  with pytest.raises(ZeroDivisionError), make(path):
    raise ZeroDivisionError
  assert not path.exists()
  with make(path):
    pass


HOLD = """
import pathlib, sys, time
from etils import epath
from vit_jax.parallel import lock
lock._SETTLE_SECONDS = 0
library = pathlib if sys.argv[1] == 'local' else epath
with lock.Lock(library.Path(sys.argv[2]), 'It', ''):
  print('held', flush=True)
  time.sleep(99)
"""


def test_a_killed_process_is_followed_at_once_and_a_stopped_one_is_not(path):
  kind = 'local' if isinstance(path, pathlib.Path) else 'bucket'
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, kind, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
  )
  try:
    assert process.stdout.readline() == 'held\n'
    process.send_signal(signal.SIGSTOP)
    assert re.match(f'The workdir w is in use by process {process.pid} on ', refused(path))
  finally:
    process.kill()
  while lock_lib._birth(process.pid) is not None:  # a zombie until `wait` is called
    time.sleep(0.01)
  with make(path):
    assert json.loads(path.read_text())['pid'] == os.getpid()
  process.wait()
  process.stdout.close()


def test_a_later_process_of_the_same_number_is_not_the_holder(path):
  edit(path, id='other', birth='1')
  with make(path):
    pass
  assert not path.exists()


def test_another_machine_is_watched(path, monkeypatch, caplog):
  monkeypatch.setattr(lock_lib, '_STALE_SECONDS', 0.3)
  holder = edit(path, id='other', host='far', boot='b', pid=7)
  with make(path):
    pass
  assert caplog.messages == [
    'The workdir w was last used by process 7 on far. Waiting up to 0 s to see if that process is '
    'still running.'
  ]
  path.write_text(json.dumps(holder))
  renewed = holder | {'renewed': holder['renewed'] + 15}
  sleep = time.sleep
  monkeypatch.setattr(
    lock_lib.time, 'sleep', lambda s: (path.write_text(json.dumps(renewed)), sleep(s))
  )
  assert refused(path) == words(holder)
  assert json.loads(path.read_text()) == renewed
  # A run that ends while it is watched is followed.
  monkeypatch.setattr(lock_lib.time, 'sleep', lambda s: path.unlink(missing_ok=True))
  with make(path):
    pass


def test_a_file_that_was_not_renewed_for_long_needs_no_watching(path, monkeypatch):
  monkeypatch.setattr(lock_lib.time, 'sleep', lambda s: pytest.fail() if s else None)
  edit(path, id='other', host='far', boot='b', renewed=round(time.time()) - 601)
  with make(path):
    pass


@pytest.mark.parametrize('text', ['', '{"pid": 3}', 'null', '[1]', '{'])
def test_a_file_that_names_nobody_is_replaced(path, text):
  path.write_text(text)
  with make(path):
    assert json.loads(path.read_text())['pid'] == os.getpid()


def test_a_file_that_is_being_written_is_read_again(tmp_path, monkeypatch):
  monkeypatch.setattr(lock_lib, '_SETTLE_SECONDS', 0)
  path = epath.Path(tmp_path / 'lock.json')
  holder = edit(path, id='other')
  whole = path.read_text()
  path.write_text(whole[:20])
  monkeypatch.setattr(lock_lib.time, 'sleep', lambda s: path.write_text(whole))
  assert refused(path) == words(holder)


def test_a_holder_renews_and_notices_that_it_was_taken_for_dead(path, monkeypatch):
  monkeypatch.setattr(lock_lib, '_RENEW_SECONDS', 0.02)
  clock = iter(range(100, 10**9))
  monkeypatch.setattr(lock_lib.time, 'time', lambda: next(clock))
  with make(path) as lock:
    first = json.loads(path.read_text())
    until = time.monotonic() + 5
    while json.loads(path.read_text() or 'null') in (first, None) and time.monotonic() < until:
      time.sleep(0.01)
    assert json.loads(path.read_text())['renewed'] > first['renewed']
    other = first | {'id': 'other', 'host': 'far', 'pid': 7}
    while json.loads(path.read_text() or 'null') != other:  # it may be renewing the file
      path.write_text(json.dumps(other))
      time.sleep(0.03)
    with pytest.raises(InputError) as error:
      lock.check()
    assert str(error.value) == words(other)
  assert json.loads(path.read_text()) == other  # the file of the other one stays


def test_a_file_system_without_locks(tmp_path, monkeypatch):
  def unsupported(*_):
    raise OSError(37, 'No locks available')

  monkeypatch.setattr(lock_lib, '_SETTLE_SECONDS', 0)
  monkeypatch.setattr(lock_lib.fcntl, 'flock', unsupported)
  path = tmp_path / 'lock.json'
  with make(path):
    assert refused(path) == words(json.loads(path.read_text()))
  assert not path.exists()


def test_a_lock_that_cannot_be_removed_hides_no_error(path, monkeypatch, caplog):
  def unlink(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(type(path), 'unlink', unlink)
  with pytest.raises(ZeroDivisionError), make(path):
    raise ZeroDivisionError
  assert caplog.messages == [f'Cannot remove {path}: Permission denied']


def test_a_read_error_does_not_end_the_holder(path, monkeypatch, caplog):
  def fail(*_, **__):
    raise OSError(116, 'Stale file handle')

  with make(path) as lock:
    with monkeypatch.context() as m:
      m.setattr(type(path), 'read_text', fail)
      lock.check()
    assert caplog.messages == [f'Cannot read {path}: Stale file handle']
    lock.check()
  assert not path.exists()
