"""The file of the records to leave out of training, for `config.exclude_ids`.

  # vit_jax ids 1
  # dataset: cifar10/3.0.2
  # records: train=50000
  # hash: phash64-1
  # threshold: 8
  # against: mnist:test
  train 17    # distance 3 to mnist:test 4032
  train 1234  # distance 0 to mnist:test 77

An id is the name of a split and a record's number in it, in the order that `open_source` and TFDS
give it; so it holds as long as the data set's version and the number of records do, both of which
the file names, whatever slice of the split is trained on. Of a folder, whose files may change at
any time, a digest of the file names stands instead of a version.
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

_FIRST = '# vit_jax ids 1'
_KEYS = ('dataset', 'records', 'hash', 'threshold', 'against')


@dataclasses.dataclass(frozen=True)
class Ids:
  """What a file of ids says.

  Attributes:
    path: of the file.
    dataset: `ExampleIds.identity` of the data set the ids are of.
    splits: `ExampleIds.splits` of it.
    threshold: Hamming distance up to which images count as duplicates, and the embedding
      distance if that was asked for: '8', '12, embedding .1'.
    against: the sets of images that they are duplicates of.
    indices: for each split, the numbers of the records to leave out, ascending, (n,) int64.
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
  """Returns the text of the file: an id a line, sorted, with the reason as a comment."""
  records = ' '.join(f'{name}={size}' for name, size in train.splits.items())
  header = zip(_KEYS, (train.identity, records, HASH_VERSION, threshold, against))
  width = max((len(str(i)) for i in reasons), default=0)
  return (
    '\n'.join(
      [
        _FIRST,
        *(f'# {key}: {value}' for key, value in header),
        *(f'{str(i):{width}}  # {reasons[i]}' for i in sorted(reasons)),
      ]
    )
    + '\n'
  )


def read_ids(path: str | os.PathLike) -> Ids:
  """Reads a file of ids.

  Raises:
    InputError: the file cannot be read, is no such file or a damaged one, names a record twice,
      names records that its own header says do not exist, or is of hashes of another version.
  """
  try:
    with open(path, encoding='utf-8') as f:
      lines = f.read().splitlines()
  except (OSError, UnicodeDecodeError) as e:
    raise InputError(f'{path} cannot be read: {getattr(e, "strerror", None) or e}') from e
  header = dict(re.findall(r'^# (\w+): (.*)$', '\n'.join(lines[1 : 1 + len(_KEYS)]), re.MULTILINE))
  if lines[:1] != [_FIRST] or list(header) != list(_KEYS):
    raise InputError(
      f'{path} does not begin as a file of ids does ({_FIRST!r}, then '
      f'{", ".join(_KEYS)}): make it with python -m vit_jax.tools.dedup'
    )
  if header['hash'] != HASH_VERSION:
    raise InputError(
      f'{path} was made by hashes of version {header["hash"]}, this is '
      f'{HASH_VERSION}: make it again with python -m vit_jax.tools.dedup'
    )
  splits = dict(part.partition('=')[::2] for part in header['records'].split())
  found: dict[str, list[int]] = {name: [] for name in splits}
  for number, line in enumerate(lines[1 + len(_KEYS) :], 2 + len(_KEYS)):
    match = re.fullmatch(r'([\w-]+) (\d+)', line.partition('#')[0].rstrip())
    if not match:
      raise InputError(f'{path}, line {number}: {line!r} is no id such as "train 1234"')
    found.setdefault(match[1], []).append(int(match[2]))
  return Ids(
    str(path),
    header['dataset'],
    splits,
    header['threshold'],
    header['against'],
    _checked(path, splits, found),
  )


def _checked(path, splits, found) -> dict[str, np.ndarray]:
  """The indices as sorted arrays; raises InputError for those that are not in the splits."""
  missing = [
    f'{name} {i}'
    for name, indices in found.items()
    for i in indices
    if i >= int(splits.get(name, '0').split('/')[0])
  ]
  if missing:
    raise InputError(
      f'{path} has {len(missing):,} ids that do not exist in the data set, the '
      f'first is {missing[0]!r}: it has {_sizes(splits)}'
    )
  indices = {name: np.unique(np.array(i, np.int64)) for name, i in found.items()}
  for name, unique in indices.items():
    if len(unique) < len(found[name]):
      raise InputError(f'{path} names {len(found[name]) - len(unique):,} records of {name} twice')
  return indices


def _sizes(splits: Mapping[str, str]) -> str:
  return ', '.join(
    f'{name} with {int(size.split("/")[0]):,} records' for name, size in splits.items()
  )


def excluded_positions(
  ids: Ids, dataset: str, split: str, data_dir: str | None = None
) -> np.ndarray:
  """Returns which records of open_source(dataset, split, data_dir) to leave out.

  Returns:
    (n,) int64, ascending; empty when the split has none of them.
  Raises:
    InputError: the ids are of another data set, version, or number or names of files; or of
      other splits than are read; or the data set cannot be opened.
  """
  records = ExampleIds(dataset, split, data_dir)
  if records.identity != ids.dataset:
    raise InputError(
      f'the ids in {ids.path} are of {ids.dataset}, not of {records.identity}: '
      f'make them for {dataset} with python -m vit_jax.tools.dedup'
    )
  for name, size in records.splits.items():
    if name not in ids.splits:
      raise InputError(
        f'{ids.path} says nothing about the split {name!r} of {dataset}: it was '
        f'made for {", ".join(ids.splits)}'
      )
    if size != ids.splits[name]:
      raise InputError(_what_changed(ids, dataset, name, size))
  return records.positions(ids.indices)


def _what_changed(ids: Ids, dataset: str, name: str, size: str) -> str:
  count, expected = (int(s.split('/')[0]) for s in (size, ids.splits[name]))
  again = 'make them again with python -m vit_jax.tools.dedup'
  if count == expected:
    return (
      f'the files of {dataset}, {name}, have other names than when the ids in {ids.path} '
      f'were made: {again}'
    )
  beyond = ids.indices[name][ids.indices[name] >= count]
  missing = (
    f', so {len(beyond):,} ids do not exist, the first is {f"{name} {beyond[0]}"!r}'
    if len(beyond)
    else ''
  )
  return (
    f'the ids in {ids.path} are of {expected:,} records of {dataset}, {name}, which has '
    f'{count:,}{missing}: {again}'
  )
