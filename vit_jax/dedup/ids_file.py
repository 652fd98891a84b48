"""Read and write the file that lists the examples to leave out of training (config.exclude_ids).

  # vit_jax ids 1
  # dataset: cifar10/3.0.2
  # records: train=50000
  # hash: phash64-1
  # threshold: 8
  # against: mnist:test
  train 17    # distance 3 to mnist:test 4032
  train 1234  # distance 0 to mnist:test 77

An id is the name of a split and the index of an example in it, in the order of `open_source` and
TFDS. It is valid for any slice of the split, as long as the dataset's version and the number of
examples stay the same. The file names both. The files of a folder may change at any time, so for a
folder a digest of the file names takes the place of the version.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
import re

import numpy as np

from vit_jax.dedup.example_ids import ExampleId, ExampleIds
from vit_jax.dedup.hashes import HASH_VERSION
from vit_jax.errors import InputError
from vit_jax.files import user_path

_FIRST = '# vit_jax ids 1'
_KEYS = ('dataset', 'records', 'hash', 'threshold', 'against')
_MAKE_AGAIN = 'Make the file again with python -m vit_jax.tools.dedup.'


@dataclasses.dataclass(frozen=True)
class IdsFile:
  """The contents of a file of ids.

  Attributes:
    path: path of the file.
    dataset: `ExampleIds.identity` of the dataset that the ids belong to.
    splits: `ExampleIds.splits` of that dataset.
    threshold: largest Hamming distance between duplicates, and the largest embedding distance if
      there was one: '8', or '12, embedding .1'.
    against: the test sets that the images are duplicates of.
    indices: for each split, the indices of the examples to leave out, (n,) int64, ascending.
  """

  path: str
  dataset: str
  splits: Mapping[str, str]
  threshold: str
  against: str
  indices: Mapping[str, np.ndarray]


def format_ids(
  train: ExampleIds, *, threshold: str, against: str, reasons: Mapping[ExampleId, str]
) -> str:
  """Return the text of a file of ids, sorted, one on a line.

  Args:
    train: the training set.
    threshold: see `IdsFile`.
    against: see `IdsFile`.
    reasons: for each id, a comment that says why it is in the file.
  """
  sizes = ' '.join(f'{name}={size}' for name, size in train.splits.items())
  header = zip(_KEYS, (train.identity, sizes, HASH_VERSION, threshold, against))
  width = max((len(str(i)) for i in reasons), default=0)
  lines = [_FIRST]
  lines += [f'# {key}: {value}' for key, value in header]
  lines += [f'{str(i):{width}}  # {reasons[i]}' for i in sorted(reasons)]
  return '\n'.join(lines) + '\n'


def read_ids(path: str | os.PathLike) -> IdsFile:
  """Read a file of ids.

  Raises:
    InputError: the file cannot be read, is damaged, is not a file of ids, lists an example
      twice, lists examples that its own header says do not exist, or was made with another
      version of the hashes.
  """
  try:
    lines = user_path(path).read_text(encoding='utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as e:
    raise InputError(f'Cannot read {path}: {getattr(e, "strerror", None) or e}.') from e
  header = dict(re.findall(r'^# (\w+): (.*)$', '\n'.join(lines[1 : 1 + len(_KEYS)]), re.MULTILINE))
  if lines[:1] != [_FIRST] or list(header) != list(_KEYS):
    raise InputError(
      f'{path} is not a file of ids. Its first line must be {_FIRST!r}, followed by '
      f'{", ".join(_KEYS)}. {_MAKE_AGAIN}'
    )
  if header['hash'] != HASH_VERSION:
    raise InputError(
      f'{path} was made with hashes of version {header["hash"]}, but this version of vit_jax '
      f'computes {HASH_VERSION}. {_MAKE_AGAIN}'
    )
  splits = dict(part.partition('=')[::2] for part in header['records'].split())
  indices: dict[str, list[int]] = {name: [] for name in splits}
  for number, line in enumerate(lines[1 + len(_KEYS) :], 2 + len(_KEYS)):
    match = re.fullmatch(r'([\w-]+) (\d+)', line.partition('#')[0].rstrip())
    if not match:
      raise InputError(f'{path}, line {number}: {line!r} is not an id such as "train 1234".')
    indices.setdefault(match[1], []).append(int(match[2]))
  return IdsFile(
    str(path),
    header['dataset'],
    splits,
    header['threshold'],
    header['against'],
    _sorted_indices(path, splits, indices),
  )


def _sorted_indices(
  path: str | os.PathLike, splits: Mapping[str, str], indices: Mapping[str, list[int]]
) -> dict[str, np.ndarray]:
  """Return the indices as sorted arrays; raise InputError for those that do not exist."""
  missing = [
    f'{name} {i}' for name in indices for i in indices[name] if i >= _count(splits.get(name, '0'))
  ]
  if missing:
    sizes = ', '.join(f'{name} with {_count(size):,} examples' for name, size in splits.items())
    raise InputError(
      f'{path} lists ids that do not exist in the dataset: {len(missing):,}. The first is '
      f'{missing[0]!r}. The dataset has {sizes}.'
    )
  arrays = {name: np.unique(np.array(i, np.int64)) for name, i in indices.items()}
  for name, unique in arrays.items():
    if twice := len(indices[name]) - len(unique):
      raise InputError(f'{path} lists {twice:,} examples of {name} more than once.')
  return arrays


def _count(size: str) -> int:
  """Return the number of examples in a value of `ExampleIds.splits`."""
  return int(size.split('/')[0])


def excluded_positions(
  ids: IdsFile, dataset: str, split: str, data_dir: str | None = None
) -> np.ndarray:
  """Return the positions of the examples to leave out in open_source(dataset, split, data_dir).

  Returns:
    (n,) int64, ascending. Empty if the split has none of the examples.

  Raises:
    InputError: the ids belong to another dataset or version, the number or the names of the files
      have changed, the file does not cover the split, or the dataset cannot be opened.
  """
  examples = ExampleIds(dataset, split, data_dir)
  if examples.identity != ids.dataset:
    raise InputError(
      f'The ids in {ids.path} belong to {ids.dataset}, not to {examples.identity}. Make ids for '
      f'{dataset} with python -m vit_jax.tools.dedup.'
    )
  for name, size in examples.splits.items():
    if name not in ids.splits:
      raise InputError(
        f'{ids.path} does not cover the split {name!r} of {dataset}. It was made for '
        f'{", ".join(ids.splits)}.'
      )
    if size != ids.splits[name]:
      raise InputError(f'{_describe_change(ids, dataset, name, size)} {_MAKE_AGAIN}')
  return examples.positions(ids.indices)


def _describe_change(ids: IdsFile, dataset: str, name: str, size: str) -> str:
  """Say how a split differs from the one that the ids were made for."""
  count, expected = _count(size), _count(ids.splits[name])
  if count == expected:
    return (
      f'The files of {dataset}, {name}, have other names than when the ids in {ids.path} were made.'
    )
  change = (
    f'The ids in {ids.path} were made for {expected:,} examples of {dataset}, {name}, but it has '
    f'{count:,} now.'
  )
  beyond = ids.indices[name][ids.indices[name] >= count]
  if len(beyond):
    change += f' Ids that no longer exist: {len(beyond):,}. The first is {f"{name} {beyond[0]}"!r}.'
  return change
