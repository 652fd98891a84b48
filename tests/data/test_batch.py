import pytest

from vit_jax.data import batch
from vit_jax.data.batch import ReadOptions, check_batch_fits
from vit_jax.errors import InputError


def test_rows_of_a_process():
  options = ReadOptions(12, process_index=2, process_count=3)
  assert options.rows == 4
  assert options.global_rows.tolist() == [8, 9, 10, 11] and options.global_rows.dtype == 'int32'


def test_batch_size_must_be_divisible():
  for batch_size in (10, 0):
    with pytest.raises(InputError) as e:
      ReadOptions(batch_size, process_count=4)
    assert str(e.value) == (
      f'batch_size={batch_size} does not divide over 4 process(es). '
      'Choose a positive multiple of 4.'
    )


def test_an_absurd_batch_is_refused_before_memory_is_taken(monkeypatch):
  sizes = {'SC_PAGE_SIZE': 4096, 'SC_PHYS_PAGES': 4_000_000}
  monkeypatch.setattr(batch.os, 'sysconf', sizes.get)
  check_batch_fits(27_000, (224, 224, 3))
  with pytest.raises(InputError) as e:
    check_batch_fits(28_000, (224, 224, 3))
  assert str(e.value) == (
    'A batch of 28,000 images takes 4.2 GB, but this machine has 16.4 GB of memory, which must '
    'hold at least four. Choose a smaller batch size.'
  )
  with pytest.raises(InputError, match='^A batch of 100,000,000,000,000,000,000,000 images takes '):
    check_batch_fits(10**23, (224, 224, 3))
