import os
import platform
import subprocess
import sys

import jax
import pytest

from vit_jax.parallel import allocator
from vit_jax.parallel.allocator import keep_freed_memory

# Allocates an array five times, also in threads, and writes to its first 50 MB. Prints the page
# faults of all but the first time.
PROGRAM = """
import resource, sys, threading
import numpy as np
from vit_jax.parallel.allocator import keep_freed_memory
print(keep_freed_memory())
def work():
  np.empty(int(sys.argv[1]), np.uint8)[:50_000_000] = 1
def both():
  work()
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
both()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
  both()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(size=50_000_000, **variables):
  env = {name: value for name, value in os.environ.items() if name != 'GLIBC_TUNABLES'}
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, str(size)],
    env=env | variables,
    capture_output=True,
    text=True,
    check=True,
  )
  told, faults = done.stdout.split()
  return told == 'True', int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has mallopt')
def test_freed_memory_is_used_again():
  for size in (50_000_000, 2_500_000_000):  # mallopt takes no threshold of 2 GiB or more
    told, faults = run(size)
    assert told and faults < 50, faults
  # The user's own settings of the allocator count.
  told, faults = run(GLIBC_TUNABLES='glibc.malloc.check=0')
  assert not told and faults > 500, faults


@pytest.mark.parametrize('system', ['darwin', 'win32'])
def test_other_systems_are_left_alone(monkeypatch, system):
  monkeypatch.setattr(sys, 'platform', system)
  assert not keep_freed_memory()


class FakeLibc:
  def gnu_get_libc_version(self):
    return b'2.36'

  def mallopt(self, parameter, value):
    return 1


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems are left alone')
def test_the_input_pipeline_of_an_accelerator_keeps_its_arenas(monkeypatch, tmp_path):
  monkeypatch.setattr(allocator, '_ACCELERATORS', (f'{tmp_path}/accel*',))
  monkeypatch.setattr(allocator.ctypes, 'CDLL', lambda name: FakeLibc())
  monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
  before = jax.config.jax_platforms
  try:
    for platforms, told in ((None, True), ('cpu', True), ('cuda', False), ('tpu,cpu', False)):
      jax.config.update('jax_platforms', platforms)
      assert keep_freed_memory() is told
    (tmp_path / 'accel0').touch()
    for platforms, told in ((None, False), ('cpu', True)):
      jax.config.update('jax_platforms', platforms)
      assert keep_freed_memory() is told
  finally:
    jax.config.update('jax_platforms', before)
