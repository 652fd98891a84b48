import platform

import pytest

from vit_jax.parallel import cpu_unit as module
from vit_jax.parallel.cpu_unit import cpu_unit, find_unit

INFO = 'processor\t: 0\nflags\t\t: fpu {}\nbugs\t\t: amx_bf16\n'


@pytest.fixture(autouse=True)
def forget():
  cpu_unit.cache_clear()
  yield
  cpu_unit.cache_clear()


@pytest.mark.parametrize(
  'flags, unit',
  [
    ('avx avx2 avx512f avx512_bf16 amx_bf16 amx_tile', 'AMX'),
    ('avx2 avx512f avx512_bf16', 'AVX-512 BF16'),
    ('avx2 avx512f', 'AVX-512'),
    ('avx avx2', 'AVX2'),
    ('sse', None),
  ],
)
def test_the_fastest_unit_counts(flags, unit):
  assert find_unit(INFO.format(flags)) == unit


def test_the_file_of_linux(monkeypatch, tmp_path):
  monkeypatch.setattr(module, '_CPUINFO', tmp_path / 'cpuinfo')
  assert cpu_unit() == platform.machine()  # macOS and Windows have no such file
  cpu_unit.cache_clear()
  (tmp_path / 'cpuinfo').write_text('Features\t: fp asimd\n')  # arm64
  assert cpu_unit() == platform.machine()
  cpu_unit.cache_clear()
  (tmp_path / 'cpuinfo').write_text(INFO.format('avx2'))
  assert cpu_unit() == 'AVX2'
