"""Find the training images that are near-duplicates of test images, and write the ids file."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import logging
from typing import NamedTuple

import cv2
from flax import linen as nn
import numpy as np

from vit_jax.data.decode import decode_image
from vit_jax.data.decode_warnings import log_warnings
from vit_jax.data.open_source import describe_dataset
from vit_jax.data.subset import Concatenation
from vit_jax.dedup import contact_sheet
from vit_jax.dedup.beam import find_matches
from vit_jax.dedup.embedding import embedding_distances
from vit_jax.dedup.example_ids import ExampleId, ExampleIds, parse_dataset
from vit_jax.dedup.ids_file import format_ids
from vit_jax.errors import InputError
from vit_jax.files import any_path, is_remote, replacing
from vit_jax.models.params import Params

log = logging.getLogger('vit_jax')

MAX_SHOWN = 48  # pairs in a contact sheet


class EmbeddingCheck(NamedTuple):
  """A model that checks the pairs which the hashes found.

  Attributes:
    model: a model as returned by `load_model`.
    params: its parameters.
    max_distance: largest cosine distance between the representations of duplicates.
  """

  model: nn.Module
  params: Params
  max_distance: float


class NumberedImages:
  """The images of one side of the search, numbered consecutively across all of its datasets."""

  def __init__(self, sets: Sequence[ExampleIds]):
    self._sets = sets
    self._numbering = Concatenation(map(len, sets))

  def __len__(self) -> int:
    return len(self._numbering)

  def _locate(self, image: int) -> tuple[ExampleIds, int]:
    number, position = self._numbering.locate(image)
    return self._sets[number], position

  def id(self, image: int) -> ExampleId:
    """Return the id of an image in its dataset."""
    examples, position = self._locate(image)
    return examples.id(position)

  def name(self, image: int) -> str:
    """Return the dataset and the id of an image, such as 'cifar10:test 77'."""
    examples, position = self._locate(image)
    return f'{examples.dataset}:{examples.id(position)}'

  def pixels(self, image: int) -> np.ndarray:
    """Read an image: (H, W, 3) uint8 RGB."""
    examples, position = self._locate(image)
    source = examples.source
    with log_warnings(source.location(position)):
      return decode_image(source[position]['image'], apply_exif=source.apply_exif)


@dataclasses.dataclass(frozen=True)
class Duplicates:
  """Near-duplicates between a training set and test sets.

  Attributes:
    train: the training set.
    against: the test sets.
    threshold: the thresholds, as the ids file states them: '8', or '12, embedding .1'.
    pairs: (P, 3) int64: number of the training image, number of the test image, Hamming distance.
    cosine_distances: (P,) float32, or None if no model checked the pairs.
  """

  train: ExampleIds
  against: Sequence[ExampleIds]
  threshold: str
  pairs: np.ndarray
  cosine_distances: np.ndarray | None

  def summary(self) -> str:
    """Return a sentence that says how many images are near-duplicates."""
    duplicates, test_images = (len(np.unique(self.pairs[:, column])) for column in (0, 1))
    total = sum(map(len, self.against))
    return (
      f'{duplicates:,} of {len(self.train):,} images of {self.train} are near-duplicates of '
      f'{test_images:,} of {total:,} test images'
    )

  def ids_text(self) -> str:
    """Return the text of the ids file, with each image's closest test image as the reason."""
    test_images = NumberedImages(self.against)
    closest_last = np.argsort(self.pairs[:, 2], kind='stable')[::-1]  # so that the closest remains
    reasons = {
      self.train.id(
        self.pairs[i, 0]
      ): f'{self._distance(i)} to {test_images.name(self.pairs[i, 1])}'
      for i in closest_last
    }
    against = ','.join(map(str, self.against))
    return format_ids(self.train, threshold=self.threshold, against=against, reasons=reasons)

  def contact_sheet(self) -> np.ndarray:
    """Draw up to MAX_SHOWN pairs, from all distances: (H, W, 3) uint8 RGB."""
    train, against = NumberedImages([self.train]), NumberedImages(self.against)
    shown = []
    for i in contact_sheet.choose_pairs(self.pairs[:, 2], MAX_SHOWN):
      left, right = self.pairs[i, :2]
      lines = self._distance(i), train.name(left), against.name(right)
      shown.append((train.pixels(left), against.pixels(right), lines))
    return contact_sheet.draw_sheet(shown, f'{self.summary()}; threshold {self.threshold}')

  def _distance(self, pair: int) -> str:
    text = f'distance {self.pairs[pair, 2]}'
    if self.cosine_distances is None:
      return text
    return f'{text}, embedding {self.cosine_distances[pair]:.3f}'


def find_duplicates(
  train: ExampleIds,
  against: Sequence[ExampleIds],
  *,
  threshold: int,
  parts: str,
  embedding: EmbeddingCheck | None = None,
  beam_args: Sequence[str] = (),
) -> Duplicates:
  """Find the pairs of a training image and a test image that are near-duplicates.

  Args:
    train: the training set to search.
    against: the test sets.
    threshold: largest Hamming distance between the hashes of duplicates, in bits.
    parts: directory for temporary files that every worker can write to.
    embedding: a model that checks the pairs which the hashes found.
    beam_args: Apache Beam's own flags, such as --runner=DataflowRunner.

  Raises:
    InputError: Beam is missing or failed, or the data cannot be read.
  """
  matches = find_matches(train, against, threshold=threshold, parts=parts, beam_args=beam_args)
  train_images, test_images = NumberedImages([train]), NumberedImages(against)
  _warn_damaged(train_images, matches.damaged_train)
  _warn_damaged(test_images, matches.damaged_against)
  pairs = matches.pairs
  if embedding is None:
    return Duplicates(train, against, str(threshold), pairs, None)
  model, params, max_distance = embedding
  distances = embedding_distances(model, params, pairs, train_images.pixels, test_images.pixels)
  kept = distances <= max_distance
  thresholds = f'{threshold}, embedding {max_distance:g}'
  return Duplicates(train, against, thresholds, pairs[kept], distances[kept])


def open_examples(
  text: str, default_split: str | None = None, data_dir: str | None = None
) -> ExampleIds:
  """Open 'cifar10:test' or 'cifar10'.

  Args:
    text: a dataset, and optionally a split after a colon.
    default_split: the split to use if the text names none. None means the dataset's test split.
    data_dir: directory of TFDS datasets.

  Raises:
    InputError: the dataset cannot be opened or has no test split.
  """
  dataset, split = parse_dataset(text, default_split or '')
  if not split:
    split = describe_dataset(dataset, data_dir).eval_split
    if split == 'none':
      raise InputError(f'{dataset} has no test split. Name a split, as in {dataset}:train.')
  return ExampleIds(dataset, split, data_dir)


def write_contact_sheet(duplicates: Duplicates, path: str) -> None:
  """Write the contact sheet of the pairs as a PNG file."""
  image = duplicates.contact_sheet()
  png = cv2.imencode('.png', image[..., ::-1])[1].tobytes()
  if is_remote(path):
    any_path(path).write_bytes(png)
    return
  with replacing(path) as temporary:
    temporary.write_bytes(png)


def _warn_damaged(images: NumberedImages, damaged: Sequence[int]) -> None:
  if damaged:
    log.warning(
      'Left out images that cannot be decoded: %d. The first is %s.',
      len(damaged),
      images.name(damaged[0]),
    )
