"""Split expressions in TFDS notation: 'train[:98%]+validation'."""

from __future__ import annotations

import re

from vit_jax.errors import InputError, last_line


def named_splits(split: str) -> set[str]:
  """Returns the names in a split expression: 'train[:9]+test' -> {'train', 'test'}."""
  return set(re.findall(r'(?:^|\+)\s*([\w-]+)', split))


def split_ranges(split: str, shards: dict[str, list[int]]) -> list[tuple[str, int, int]]:
  """Returns the (name, start, stop) that a split in TFDS notation stands for.

  Args:
    split: such as 'train[:98%]+validation'.
    shards: for each split there is, the number of examples in each of its files.

  Raises:
    InputError: bad notation, an unknown split, a slice out of bounds, or no examples.
  """
  import tensorflow_datasets as tfds

  infos = {
    name: tfds.core.SplitInfo(name=name, shard_lengths=lengths, num_bytes=0)
    for name, lengths in shards.items()
  }
  unknown = sorted(named_splits(split) - set(shards) - {'all'})
  if unknown:
    raise InputError(
      f'there is no split {", ".join(unknown)!r}; the splits are {", ".join(shards)}'
    )
  try:
    ranges = [
      (r.splitname, r.from_ or 0, infos[r.splitname].num_examples if r.to is None else r.to)
      for r in tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    ]
  except (ValueError, AssertionError) as e:
    raise InputError(f'bad split {split!r}: {last_line(e)}') from e
  if not any(start < stop for _, start, stop in ranges):
    raise InputError(f'the split {split!r} holds no examples')
  return ranges
