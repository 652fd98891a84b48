"""Predict the classes of a few example images, evenly spaced over a dataset."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data import class_names
from vit_jax.data.batch import Batch, ReadOptions
from vit_jax.data.pipeline import eval_batches
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.source import Source
from vit_jax.data.subset import evenly
from vit_jax.evaluation.accuracy import is_correct
from vit_jax.evaluation.losses import to_probabilities
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.parallel.partitioner import Arrays, Partitioner


class Examples(NamedTuple):
  """N images with their labels and a model's predictions.

  Attributes:
    images: (N, H, W, 3) uint8, as the model sees them.
    labels: (N,) int, or multi-hot (N, K).
    predicted: (N,) int, the most probable class.
    probability: (N,), probability of that class.
    correct: (N,) bool, True if the prediction is the label or one of the labels.
  """

  images: np.ndarray
  labels: np.ndarray
  predicted: np.ndarray
  probability: np.ndarray
  correct: np.ndarray

  def take(self, rows: np.ndarray) -> Examples:
    """Return the examples that an index array or a mask selects."""
    return Examples(*(x[rows] for x in self))

  def captions(self, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return (label or labels, prediction) of each image, given the names of the classes."""
    labels = [np.flatnonzero(x) if self.labels.ndim == 2 else [x] for x in self.labels]
    return [
      (', '.join(names[int(i)] for i in classes) or 'nothing', names[int(predicted)])
      for classes, predicted in zip(labels, self.predicted)
    ]


@dataclasses.dataclass(frozen=True)
class Sample:
  """A few images of a source, and how to read them.

  Attributes:
    source: the dataset. Its images are taken evenly spaced.
    preprocess: preprocessing for evaluation.
    count: number of images.
    batch_size: number of images to compute at once, rounded up to a multiple of the devices.
    num_threads: see `ReadOptions`.
    max_bad_records: see `ReadOptions`.
  """

  source: Source
  preprocess: Preprocess
  count: int
  batch_size: int = 16
  num_threads: int | None = None
  max_bad_records: int = 0


class Predictor:
  """Predicts the same images repeatedly, as the parameters change. Reads them at the first call.

  Attributes:
    names: names of the model's classes.
  """

  def __init__(self, model: nn.Module, sample: Sample, partitioner: Partitioner, loss: str):
    """Set up the prediction. Images are read, and the model is compiled, at the first call.

    Args:
      model: a model with a head.
      sample: the images.
      partitioner: splits each batch over devices.
      loss: the loss that the model was trained with, 'softmax' or 'sigmoid'.
    """
    self._sample, self._num_devices = sample, partitioner.num_devices
    self._batches: list[Batch] = []
    source = sample.source
    self.names = class_names.readable_names(
      source.class_names or [], source.num_classes, model.num_classes
    )

    def predict(params: Params, batch: Batch) -> Arrays:
      images, labels = jnp.asarray(batch['image']), jnp.asarray(batch['label'])
      logits = jnp.asarray(model.apply({'params': params}, to_input(images)))
      probability, predicted = jax.lax.top_k(to_probabilities(logits, loss), 1)
      return {
        'image': images,
        'label': labels,
        'mask': batch['mask'],
        'predicted': predicted[:, 0],
        'probability': probability[:, 0],
        'correct': is_correct(predicted, labels),
      }

    self._predict = partitioner.gather_step(predict)

  def __call__(self, params: Params) -> Examples:
    """Predict with parameters that are on the devices. All processes must call this."""
    self._batches = self._batches or self._read()
    results = [self._predict(params, batch) for batch in self._batches]
    rows = np.concatenate([result['mask'] for result in results])
    fields = ('image', 'label', 'predicted', 'probability', 'correct')
    return Examples(
      *(np.concatenate([result[field] for result in results])[rows] for field in fields)
    )

  def _read(self) -> list[Batch]:
    sample = self._sample
    size = min(sample.batch_size, sample.count)
    options = ReadOptions(
      batch_size=-(-size // self._num_devices) * self._num_devices,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=sample.num_threads,
      max_bad_records=sample.max_bad_records,
    )
    images = evenly(sample.source, sample.count)
    with eval_batches(images, sample.preprocess, options) as batches:
      return list(batches)
