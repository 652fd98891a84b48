"""The order of examples and the randomness of their augmentation.

Both are pure functions of the seed and of the example's number g, which counts all examples from
the start of training: row r of global batch k is example g = k * batch_size + r. Example g belongs
to epoch g // n of a dataset with n images, and is image permutation(seed, epoch)[g % n].
"""

import functools
import hashlib
from typing import Protocol

import numpy as np

# Up to this size a permutation is stored. Above, Grain computes one entry of it in 6 us without a
# table. For few images that is slow (1 ms for 50), because it rejects numbers out of 2**16.
_TABLE_IMAGES = 2**16


class Order(Protocol):
  """Says which image each example is."""

  def index(self, g: int) -> int | None:
    """Return the index of example g's image in its source, or None after the last image."""

  def rng(self, g: int) -> np.random.Generator:
    """Return the random generator for the augmentation of example g."""
    ...


class TrainOrder:
  """An endless sequence of epochs, each a permutation of its own."""

  def __init__(self, num_images: int, seed: int):
    self._num_images = num_images
    self._seed = seed
    self._key = hash_numbers(seed, bits=64)

  def index(self, g: int) -> int:
    """Return the index of example g's image."""
    epoch, position = divmod(g, self._num_images)
    return shuffled(position, self._num_images, hash_numbers(self._seed, epoch, bits=32))

  def rng(self, g: int) -> np.random.Generator:
    """Return the random generator for the augmentation of example g."""
    return np.random.Generator(np.random.Philox(key=[self._key, g]))


class EvalOrder:
  """Each image once, in the order of the source."""

  def __init__(self, num_images: int):
    self._num_images = num_images

  def index(self, g: int) -> int | None:
    """Return g, or None after the last image."""
    return g if g < self._num_images else None

  def rng(self, g: int) -> np.random.Generator:
    """Return a random generator, which the preprocessing for evaluation does not use."""
    return np.random.Generator(np.random.Philox(key=[0, g]))


def shuffled(position: int, size: int, seed: int, largest_table: int = _TABLE_IMAGES) -> int:
  """Return the element at a position of a permutation of range(size).

  Args:
    position: in [0, size).
    size: number of elements.
    seed: chooses the permutation.
    largest_table: up to this size, the permutation is made as a whole. It also decides which
      permutation it is.
  """
  if size <= largest_table:
    return int(_permutation(size, seed)[position])
  from grain.experimental import index_shuffle  # slow: commands import this file for --help

  return index_shuffle(position, max_index=size - 1, seed=seed, rounds=4)


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int) -> np.ndarray:
  # RandomState, unlike Generator, promises the same permutation in every NumPy version.
  return np.random.RandomState(seed).permutation(size)


@functools.lru_cache(maxsize=64)
def hash_numbers(*numbers: int, bits: int) -> int:
  """Return a number that is unrelated to the numbers of neighboring arguments."""
  digest = hashlib.blake2b(repr(numbers).encode(), digest_size=bits // 8).digest()
  return int.from_bytes(digest, 'little')
