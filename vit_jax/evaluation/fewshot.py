"""Few-shot evaluation: how well a linear classifier of a model's frozen representation does when
it is fitted to a few images of each class (paper section 4.1).

For each of three seeds the images of every class are permuted and the first 1, 5, 10 and 25 taken.
The classifier is found in closed form, so that it all takes the time of one pass over the test
images: cheap enough to follow a pretraining.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from vit_jax.data.batch import ReadOptions
from vit_jax.data.open_source import describe_dataset, open_source
from vit_jax.data.pipeline import eval_batches
from vit_jax.data.preprocess import make_eval_preprocess
from vit_jax.data.source import Source
from vit_jax.errors import InputError
from vit_jax.evaluation.ridge import Classifier, fit_classifier
from vit_jax.evaluation.shots import draw_shots
from vit_jax.models.pixels import to_input

SHOTS = (1, 5, 10, 25)
SEEDS = 3

# (params, this process's share of a batch) -> the same keys but 'image', and 'features' (B, D), as
# NumPy arrays of the whole batch: the rows of all processes, in any order.
Represent = Callable[[Any, dict[str, np.ndarray]], dict[str, np.ndarray]]


def make_represent_step(model: nn.Module) -> Callable[..., dict[str, jax.Array]]:
  """Makes step(params, batch) -> the batch with 'features' (B, D) float32 instead of 'image'.

  They are what the model's head is applied to: the output of pre_logits where it has that.

  Args:
    model: of any number of classes; the parameters of its head are not used.
  """
  body = model.clone(num_classes=0)

  def represent_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    features = body.apply({'params': params}, to_input(batch['image']))
    return {k: v for k, v in batch.items() if k != 'image'} | {'features': features}

  return represent_step


class FewShot:
  """The few-shot evaluation, of any number of parameters, on one data set.

  Opens the data set and chooses the shots once. An evaluation decodes these and the test split,
  every image once, and keeps the features of the shots alone: at most seeds x classes x shots x D
  float32.

  Attributes:
    dataset: its name.
    shots: images of each class.
    num_batches: of one evaluation.
  """

  def __init__(
    self,
    dataset: str,
    represent: Represent,
    *,
    image_size: int,
    batch_size: int,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    train_split: str | None = None,
    test_split: str | None = None,
    data_dir: str | None = None,
    resize_size: int | None = None,
    num_threads: int | None = None,
    max_bad_records: int = 0,
  ):
    """Chooses the shots.

    Args:
      dataset: TFDS name, task of VTAB-1k or folder, as for `open_source`.
      represent: what computes features: `gather_step` of a Partitioner, of `make_represent_step`.
      image_size: pixels, a side: the centre of images whose short side is
      resize_size: pixels; None: 256 / 224 of image_size.
      batch_size: images at once, over all processes.
      shots, seeds: images of each class, and how many draws of them to average over.
      train_split, test_split: in TFDS notation; None: the data set's own. Of train_split all
        records are read for their labels; a slice of a large one does.
      data_dir: where TFDS data sets lie.
      num_threads: that read and decode; None: one per CPU.
      max_bad_records: of either split, how many damaged images are left out; one more is an error.
    Raises:
      InputError: the data set cannot be read, or a class has fewer images than shots; in a call
        also for damaged images, and for features that are not finite.
    """
    for name, value in (('shots', min(shots)), ('seeds', seeds), ('batch_size', batch_size)):
      if value < 1:
        raise InputError(f'{name} must be at least 1, got {value}')
    self.dataset, self.shots, self._represent = dataset, tuple(shots), represent
    self._sizes = dict(image_size=image_size, resize_size=resize_size)
    self._options = dict(
      batch_size=batch_size, num_threads=num_threads, max_bad_records=max_bad_records
    )
    about = describe_dataset(dataset, data_dir)
    train_split, test_split = train_split or about.train_split, test_split or about.eval_split
    if test_split == 'none':
      raise InputError(
        f'{dataset} has no images to test on: there is no split of the name validation, val or test'
      )
    train = open_source(dataset, train_split, data_dir)
    self._test = open_source(dataset, test_split, data_dir)
    if train.multi_label:
      raise InputError(
        f'the images of {dataset} have several labels each, but few-shot evaluation '
        'is of one label per image'
      )
    try:
      self._train, self._picks = draw_shots(
        train, most=max(shots), seeds=seeds, num_threads=num_threads
      )
    except InputError as e:
      raise InputError(f'{dataset}, split {train_split!r}: {e}') from e

  @property
  def num_batches(self) -> int:
    return sum(
      -(-len(source) // self._options['batch_size']) for source in (self._train, self._test)
    )

  def __call__(
    self, params: Any, should_stop: Callable[[], bool] = lambda: False
  ) -> dict[str, float] | None:
    """The metrics of parameters; all processes call it alike.

    Args:
      params: as `represent` takes them.
      should_stop: asked once a batch.
    Returns:
      For each number of shots 'fewshot/DATASET_5shot', the mean accuracy over the seeds; None when
      stopped before the end.
    """
    found = self.count_correct(params, should_stop)
    if found is None:
      return None
    correct, examples = found
    return {
      self.metric(shots): float(accuracy)
      for shots, accuracy in zip(self.shots, correct.mean(axis=0) / examples)
    }

  def metric(self, shots: int) -> str:
    """What the accuracy after so many shots is called."""
    return f'fewshot/{self.dataset.strip("./~")}_{shots}shot'

  def count_correct(
    self, params: Any, should_stop: Callable[[], bool] = lambda: False
  ) -> tuple[np.ndarray, int] | None:
    """How many test images each draw and number of shots (seeds, shots) classifies correctly, and
    of how many; None when stopped before the end. Arguments as of a call.
    """
    parts = []
    for part in self._representations(params, self._train):
      parts.append(part)
      if should_stop():
        return None
    classifiers = self._fit(
      np.concatenate([part['example'] for part in parts]),
      np.concatenate([part['features'] for part in parts]),
    )
    correct, examples = np.zeros(len(classifiers), int), 0
    for part in self._representations(params, self._test):
      correct += [
        np.sum(classifier.scores(part['features']).argmax(1) == part['label'])
        for classifier in classifiers
      ]
      examples += len(part['label'])
      if should_stop():
        return None
    return correct.reshape(-1, len(self.shots)), examples

  def _fit(self, examples: np.ndarray, features: np.ndarray) -> list[Classifier]:
    """Of each seed, for each number of shots.

    Args:
      examples: (N,) which of the shots they are.
      features: (N, D).
    """
    if not np.isfinite(features).all():
      raise InputError(
        f'{self.dataset}: the features of an image are not finite: has the training diverged?'
      )
    rows = np.full(len(self._train), -1)  # where the features of each shot are; damaged: nowhere
    rows[examples] = np.arange(len(examples))
    classifiers = []
    for picks in self._picks:
      for shots in self.shots:
        found = rows[picks[:, :shots]]  # (classes, shots)
        labels, _ = np.nonzero(found >= 0)
        classifiers.append(fit_classifier(features[found[found >= 0]], labels, len(found)))
    return classifiers

  def _representations(self, params: Any, source: Source) -> Iterator[dict[str, np.ndarray]]:
    """Yields {features, label, example: its index in the source} of each batch, unpadded."""
    preprocess = make_eval_preprocess('inception', apply_exif=source.apply_exif, **self._sizes)
    process, count = jax.process_index(), jax.process_count()
    options = ReadOptions(process_index=process, process_count=count, **self._options)
    with eval_batches(source, preprocess, options) as batches:
      for batch in batches:
        found = self._represent(params, batch)
        yield {name: value[found['mask']] for name, value in found.items()}
