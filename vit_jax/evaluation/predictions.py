"""Predict every image of a dataset, and compare the predictions with the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.batch import Batch, ReadOptions
from vit_jax.data.pipeline import eval_batches
from vit_jax.data.preprocess import EvalPreprocess
from vit_jax.data.source import Source
from vit_jax.errors import InputError
from vit_jax.evaluation.accuracy import is_correct
from vit_jax.evaluation.losses import cross_entropy, to_probabilities
from vit_jax.evaluation.scores import label_pairs
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.partitioner import Arrays, GatherStep
from vit_jax.pretrained.load import Loaded

TOP = 5  # classes that count for the top-5 accuracy


class Predictions(NamedTuple):
  """Predictions for N images that have P labels, P >= N."""

  label: np.ndarray  # (N,) int; -1 for an image with several labels
  prediction: np.ndarray  # (N,) int, the most probable class
  confidence: np.ndarray  # (N,) probability of the predicted class
  correct: np.ndarray  # (N,) bool, the predicted class is one of the labels
  top5: np.ndarray  # (N,) bool, one of the five most probable classes is one of the labels
  loss: np.ndarray | None  # (N,); None if it is not defined
  class_label: np.ndarray  # (P,) int, all labels of all images
  class_correct: np.ndarray  # (P,) bool, `correct` for the image that has the label
  example: np.ndarray | None = None  # (N,) int, index of the image in its split


def make_predict_step(
  model: nn.Module, loss: str, *, with_loss: bool = True, order: np.ndarray | None = None
) -> GatherStep:
  """Return step(params, batch) -> prediction, confidence, correct, top5 and loss, each (B,).

  Args:
    model: a model with a head.
    loss: the loss that the model was trained with, 'softmax' or 'sigmoid'. It determines the
      probabilities.
    with_loss: set to False if the labels have no such loss.
    order: (C,) int, the model's classes in the order of the dataset, from `match_classes`. None if
      they are in this order already.
  """

  def step(params: Params, batch: Batch) -> Arrays:
    labels = batch['label']
    logits = jnp.asarray(model.apply({'params': params}, to_input(batch['image'])))
    if order is not None:
      logits = logits[:, order]
    top = jax.lax.top_k(logits, min(TOP, model.num_classes))[1]
    results = {
      'prediction': top[:, 0],
      'confidence': to_probabilities(logits, loss).max(-1),
      'correct': is_correct(top[:, 0], labels),
      'top5': is_correct(top, labels),
    }
    if with_loss:
      results['loss'] = cross_entropy(logits, labels, kind=loss)
    return results

  return step


class PredictedSource(NamedTuple):
  """The predictions for a source, and the images that were left out."""

  predictions: Predictions
  skipped: int  # number of images without a label
  bad_records: list[str]  # names of the damaged records


def predict_source(
  loaded: Loaded,
  source: Source,
  preprocess: EvalPreprocess,
  loss: str,
  options: ReadOptions,
  on_batch: Callable[[int], Any] = lambda images: None,
  *,
  order: np.ndarray | None = None,
) -> PredictedSource:
  """Predict all images of a source that have a label, on all devices of this process.

  Args:
    loaded: the model and its parameters.
    source: labeled images.
    preprocess: the preprocessing of evaluation.
    loss: the loss that the model was trained with. There is no softmax loss for images with several
      labels.
    options: batch size, threads and number of damaged images to leave out.
    on_batch: called after each batch with its number of images.
    order: the model's classes in the order of the dataset, as in `make_predict_step`.

  Raises:
    InputError: the images cannot be read, none has a label, or the outputs of the model are not
      finite.
  """
  with_loss = not source.multi_label or loss == 'sigmoid'
  partitioner = MeshPartitioner(options.batch_size)
  step = partitioner.gather_step(
    make_predict_step(loaded.model, loss, with_loss=with_loss, order=order)
  )
  params = partitioner.put(loaded.params)
  with eval_batches(source, preprocess, options) as batches:
    predictions, skipped = predict_all(step, params, batches, on_batch)
    return PredictedSource(predictions, skipped, sorted(batches.bad_records))


def predict_all(
  step: GatherStep,
  params: Params,
  batches: Iterable[Batch],
  on_batch: Callable[[int], Any] = lambda images: None,
) -> tuple[Predictions, int]:
  """Predict all images that have a label.

  Args:
    step: result of `make_predict_step`, compiled by `Partitioner.gather_step`.
    params: parameters on the devices.
    batches: as from `eval_batches`.
    on_batch: called after each batch with its number of images.

  Returns:
    The predictions in the order of the images, and the number of images without a label, which are
    left out.

  Raises:
    InputError: the outputs of the model are not finite, or no image has a label.
  """
  parts, skipped, seen = [], 0, 0
  for batch in batches:
    labels, mask = batch['label'], batch['mask']
    results = step(params, batch)
    rows = mask & labels.any(1) if labels.ndim == 2 else mask
    skipped += int(np.count_nonzero(mask & ~rows))
    part = _predictions(labels[rows], {k: v[rows] for k, v in results.items()})
    parts.append(part._replace(example=seen + np.flatnonzero(rows)))
    seen += len(mask)
    on_batch(int(np.count_nonzero(mask)))
  fields = [None if part[0] is None else np.concatenate(part) for part in zip(*parts)]
  predictions = Predictions._make(fields)
  _check_predictions(predictions)
  return predictions, skipped


def _predictions(labels: np.ndarray, results: Arrays) -> Predictions:
  """Combine labels, (B,) int or multi-hot (B, K), with the results of a predict step."""
  one_label = labels if labels.ndim == 1 else np.where(labels.sum(1) == 1, labels.argmax(1), -1)
  images, classes = label_pairs(labels)
  return Predictions(
    label=one_label,
    prediction=results['prediction'],
    confidence=results['confidence'],
    correct=results['correct'],
    top5=results['top5'],
    loss=results.get('loss'),
    class_label=classes,
    class_correct=results['correct'][images],
  )


def _check_predictions(predictions: Predictions) -> None:
  images = len(predictions.label)
  if not images:
    raise InputError('Nothing to evaluate: none of the images has a label.')
  broken = np.count_nonzero(~np.isfinite(predictions.confidence))
  if broken:
    raise InputError(
      f'The outputs of the model are not finite for {broken:,} of {images:,} images. '
      'Its parameters are broken or, with --dtype=bfloat16, too large for this type.'
    )
