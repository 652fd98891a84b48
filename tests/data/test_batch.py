import pytest

from vit_jax.data.batch import ReadOptions
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
