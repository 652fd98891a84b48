"""All pairs of 64-bit hashes within a Hamming distance, found without comparing all pairs.

A hash is cut into four bands of 16 bits. Let r_0 + 1, ..., r_3 + 1 add up to threshold + 1: two
hashes within the threshold differ in some band i by at most r_i bits, else they would differ by
threshold + 1. So the hashes of the small side are kept sorted by each band, and a hash of the
large side looks up the values within r_i of its own. Exact, and about 350 times fewer comparisons
than of all pairs at a threshold of 8.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np

from vit_jax.errors import InputError

MAX_THRESHOLD = 16  # beyond, hashes of unlike images are that close and the look-ups too many

_BITS, _BANDS = 16, 4
_CLOSEST = 8  # pairs kept of each hash looked up
_LOOK_UPS = 2**18  # at a time: 8 MB
_CANDIDATES = 2**20  # pairs compared at a time: 40 MB


class Index(NamedTuple):
  """The hashes of the small side, sorted by each band.

  Attributes:
    threshold: the largest distance to find.
    hashes: (4, N) uint64, sorted by the band of the row.
    images: (4, N) int64, which image each is of.
    starts: (4, 2**16 + 1) int64, where the hashes of each value of the band begin.
  """

  threshold: int
  hashes: np.ndarray
  images: np.ndarray
  starts: np.ndarray


def make_index(hashes: np.ndarray, images: np.ndarray, threshold: int) -> Index:
  """Returns the index of `hashes` (N,) uint64, of which hash i is of image images[i].

  Raises:
    InputError: threshold is not in [0, MAX_THRESHOLD].
  """
  if not 0 <= threshold <= MAX_THRESHOLD:
    raise InputError(f'the threshold must be from 0 to {MAX_THRESHOLD} bits, got {threshold}')
  bands = [_band(hashes, i) for i in range(_BANDS)]
  orders = [np.argsort(band, kind='stable') for band in bands]
  starts = [
    np.searchsorted(band[order], np.arange(2**_BITS + 1)) for band, order in zip(bands, orders)
  ]
  return Index(
    threshold,
    np.stack([hashes[o] for o in orders]),
    np.stack([np.asarray(images, np.int64)[o] for o in orders]),
    np.stack(starts),
  )


def find_pairs(index: Index, hashes: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Returns (P, 3) int64 of (row, image, distance) within the index's threshold.

  Args:
    index: of the small side.
    hashes: (N,) uint64 of the large side.
    rows: (N,) what to call each; several hashes may be of one row.
  Returns:
    Each pair once, at its smallest distance, sorted; of a row only the 8 closest images (of
    equally close ones those with the smallest numbers), so that there are not millions among
    images that are all alike.
  """
  found = [np.empty((0, 3), np.int64)]
  for band, radius in enumerate(_radii(index.threshold)):
    masks = _masks(radius)
    step = max(_LOOK_UPS // max(len(masks), 1), 1)
    for i in range(0, len(hashes), step):
      found += _look_up(index, band, masks, hashes[i : i + step], rows[i : i + step])
  return _closest(np.concatenate(found))


def _radii(threshold: int) -> list[int]:
  """r_i of each band, -1 for a band that need not be looked at."""
  return [(threshold + 1 + i) // _BANDS - 1 for i in range(_BANDS)]


@functools.cache
def _masks(radius: int) -> np.ndarray:
  """The numbers of 16 bits with at most `radius` ones: (M,) uint16."""
  return np.array(
    [
      sum(1 << bit for bit in bits)
      for ones in range(radius + 1)
      for bits in itertools.combinations(range(_BITS), ones)
    ],
    np.uint16,
  )


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
  return (hashes >> np.uint64(_BITS * band)).astype(np.uint16)


def _look_up(index, band, masks, hashes, rows):
  """Yields the pairs whose bands differ by one of the masks, and that no earlier band finds."""
  values = (_band(hashes, band)[:, None] ^ masks).ravel().astype(np.int64)
  first = index.starts[band][values]
  counts = index.starts[band][values + 1] - first
  some = np.flatnonzero(counts)
  ends = np.cumsum(counts[some])
  cuts = np.searchsorted(ends, np.arange(0, ends[-1] if len(ends) else 0, _CANDIDATES), 'right')
  for part in np.split(some, cuts[1:]):
    repeats = counts[part]
    which = np.repeat(part // len(masks), repeats)
    # The numbers first[i], first[i] + 1, ... first[i] + counts[i] - 1 of each i, in a row.
    steps = np.arange(len(which)) + np.repeat(first[part] - np.cumsum(repeats) + repeats, repeats)
    different = hashes[which] ^ index.hashes[band][steps]
    distances = np.bitwise_count(different)
    hits = np.flatnonzero(distances <= index.threshold)
    hits = hits[_is_first(different[hits], band, index.threshold)]
    if len(hits):
      yield np.stack(
        [rows[which[hits]], index.images[band][steps[hits]], distances[hits]],
        axis=1,
        dtype=np.int64,
      )


def _is_first(different: np.ndarray, band: int, threshold: int) -> np.ndarray:
  """Whether no band before this one finds the pairs that differ in these bits."""
  first = np.ones(len(different), bool)
  for earlier, radius in enumerate(_radii(threshold)[:band]):
    first &= np.bitwise_count(_band(different, earlier)) > radius
  return first


def _closest(pairs: np.ndarray) -> np.ndarray:
  """Each (row, image) once at its smallest distance, and the _CLOSEST of each row, sorted."""
  pairs = pairs[np.lexsort((pairs[:, 2], pairs[:, 1], pairs[:, 0]))]
  new = np.ones(len(pairs), bool)
  new[1:] = (pairs[1:, :2] != pairs[:-1, :2]).any(axis=1)
  pairs = pairs[new]
  pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 2], pairs[:, 0]))]
  rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
  pairs = pairs[rank < _CLOSEST]
  return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
