"""What a model says of a few images of a data set, spread evenly over it."""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import numpy as np

from vit_jax.data import class_names
from vit_jax.data.batch import Batch, ReadOptions
from vit_jax.data.pipeline import eval_batches
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.source import Source
from vit_jax.data.subset import evenly
from vit_jax.evaluation.accuracy import is_correct
from vit_jax.evaluation.losses import to_probabilities
from vit_jax.models.pixels import to_input
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.pmap import PmapPartitioner


class Examples(NamedTuple):
  """N images, their labels and what a model takes them for."""

  images: np.ndarray  # (N, H, W, 3) uint8, as the model sees them
  labels: np.ndarray  # (N,) int, or multi-hot (N, K)
  predicted: np.ndarray  # (N,) int, the most probable class
  probability: np.ndarray  # (N,)
  correct: np.ndarray  # (N,) bool: the prediction is the label, or one of the labels

  def take(self, rows: np.ndarray) -> 'Examples':
    return Examples(*(x[rows] for x in self))

  def captions(self, names: list[str]) -> list[tuple[str, str]]:
    """(the label, or the labels; the prediction) of each image, by the names of the classes."""
    labels = [np.flatnonzero(x) if self.labels.ndim == 2 else [x] for x in self.labels]
    return [
      (', '.join(names[i] for i in several) or 'nothing', names[predicted])
      for several, predicted in zip(labels, self.predicted)
    ]


class Predictor:
  """Predicts the same few images again and again, as the parameters change."""

  def __init__(
    self,
    model: nn.Module,
    source: Source,
    preprocess: Preprocess,
    partitioner: PmapPartitioner | MeshPartitioner,
    *,
    loss: str,
    count: int,
    batch_size: int = 16,
    num_threads: int | None = None,
    max_bad_records: int = 0,
  ):
    """Reads nothing yet.

    Args:
      model: with a head.
      source: of the images; `count` of them are taken, evenly over it.
      preprocess: of evaluation.
      partitioner: over which devices.
      loss: 'softmax' or 'sigmoid', what was trained with.
      batch_size: images computed at once; rounded up to the devices.
      num_threads, max_bad_records: as in `ReadOptions`.
    """
    self._source = evenly(source, count)
    self._preprocess, self._partitioner = preprocess, partitioner
    self._options = ReadOptions(
      batch_size=-(-min(batch_size, count) // partitioner.num_devices) * partitioner.num_devices,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=num_threads,
      max_bad_records=max_bad_records,
    )
    self._batches: list[Batch] = []
    self.names = class_names.readable_names(
      source.class_names or [], source.num_classes, model.num_classes
    )

    def predict(params, batch):
      logits = model.apply({'params': params}, to_input(batch['image']))
      probability, predicted = jax.lax.top_k(to_probabilities(logits, loss), 1)
      return dict(
        batch,
        predicted=predicted[:, 0],
        probability=probability[:, 0],
        correct=is_correct(predicted, batch['label']),
      )

    self._predict = partitioner.gather_step(predict)

  def __call__(self, params: Any) -> Examples:
    """Predicts; all processes must call it, with `params` on the devices."""
    if not self._batches:
      with eval_batches(self._source, self._preprocess, self._options) as batches:
        self._batches = list(batches)
    found = [self._predict(params, batch) for batch in self._batches]
    found = {k: np.concatenate([part[k] for part in found]) for k in found[0]}
    rows = found['mask']
    return Examples(
      found['image'][rows],
      found['label'][rows],
      found['predicted'][rows],
      found['probability'][rows],
      found['correct'][rows],
    )
