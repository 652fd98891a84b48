"""Test the one place that uses private names of JAX, in a job of one process."""

import subprocess
import sys
import types

import jax
import pytest

from tests.helpers.jobs import free_port
from vit_jax.errors import InputError
from vit_jax.parallel import coordination

PROGRAM = f"""
import jax
from vit_jax.parallel import coordination
assert coordination.alone()
coordination.check()
jax.distributed.initialize('localhost:{free_port()}', 1, 0)
coordination.check()
assert coordination.alone()
coordination.put('folder/a', 'x')
coordination.put('folder/b', 'é')
assert coordination.values('folder/') == [('folder/a', 'x'), ('folder/b', 'é')]
assert coordination.values('other/') == []
coordination.wait_for_all('barrier', 5)
"""


def test_the_names_that_jax_must_have():
  subprocess.run([sys.executable, '-c', PROGRAM], check=True)


CLIENT = dict.fromkeys(['key_value_set', 'key_value_dir_get', 'wait_at_barrier'])
COMPLETE = {'num_processes': 2, 'client': types.SimpleNamespace(**CLIENT)}
WITHOUT = {
  'module': None,
  'global_state': types.SimpleNamespace(),
  'num_processes': types.SimpleNamespace(
    global_state=types.SimpleNamespace(client=COMPLETE['client'])
  ),
  'wait_at_barrier': types.SimpleNamespace(
    global_state=types.SimpleNamespace(
      num_processes=2, client=types.SimpleNamespace(key_value_set=1, key_value_dir_get=1)
    )
  ),
}


@pytest.fixture
def initialized(monkeypatch):
  """Let jax.distributed say that it is initialized, until it is shut down."""
  shut_down = []
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: not shut_down)
  monkeypatch.setattr(jax.distributed, 'shutdown', lambda: shut_down.append(True))
  return shut_down


def test_nothing_is_said_where_all_names_are_there(initialized, monkeypatch):
  complete = types.SimpleNamespace(global_state=types.SimpleNamespace(**COMPLETE))
  monkeypatch.setitem(sys.modules, 'jax._src.distributed', complete)
  coordination.check()
  assert not coordination.alone() and not initialized


@pytest.mark.parametrize('name', WITHOUT)
def test_a_name_that_is_gone(name, initialized, monkeypatch):
  monkeypatch.setitem(sys.modules, 'jax._src.distributed', WITHOUT[name])
  with pytest.raises(InputError) as error:
    coordination.check()
  assert str(error.value) == (
    f'vit_jax cannot connect several processes with JAX {jax.__version__}. Install the versions '
    'that it is tested with (pip install -c constraints.txt -e .), or run only one process.'
  )
  assert initialized and coordination.alone()  # so the end of the program needs none of them
