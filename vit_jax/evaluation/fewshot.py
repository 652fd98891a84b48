"""Few-shot evaluation of a model's frozen representation (paper section 4.1).

For each of three seeds, the images of every class are permuted and the first 1, 5, 10 and 25 are
taken as shots. A linear classifier of their features is fitted in closed form, and its accuracy on
the test images is measured. This takes about as long as one pass over the test images, so it can be
repeated during pretraining.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses

from flax import linen as nn
import numpy as np

from vit_jax.data.batch import Batch, ReadOptions
from vit_jax.data.open_source import describe_dataset, open_source
from vit_jax.data.pipeline import eval_batches
from vit_jax.data.preprocess import make_eval_preprocess
from vit_jax.data.source import Source
from vit_jax.errors import InputError
from vit_jax.evaluation.ridge import Classifier, fit_classifier
from vit_jax.evaluation.shots import draw_shots
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.parallel.partitioner import Arrays, GatherStep

SHOTS = (1, 5, 10, 25)
SEEDS = 3

# (params, this process's share of a batch) -> the fields of the whole batch as NumPy arrays, with
# 'features' (B, D) instead of 'image'. The rows of all processes may come in any order.
Represent = Callable[[Params, Batch], Arrays]


@dataclasses.dataclass(frozen=True)
class FewShotProtocol:
  """The protocol by which few-shot accuracy is measured.

  Attributes:
    image_size: side of the center crop, in pixels.
    resize_size: both sides are resized to this before cropping, in pixels. Defaults to 256 / 224 of
      image_size.
    shots: numbers of training images per class.
    seeds: number of draws of the training images.
    train_split: split to draw the shots from, in TFDS notation. The labels of all its images are
      read, so take a slice of a large split. Defaults to the training split of the dataset.
    test_split: split to measure the accuracy on. Defaults to the evaluation split of the dataset.
    preset: how images are resized: 'squash' resizes both sides, as in the published code;
      'inception' resizes the short side, as earlier versions did. The filter is bilinear.
    fast_dct: decode JPEGs with the fast DCT, see `decode_image`.

  Raises:
    InputError: shots or seeds are less than 1.
  """

  image_size: int
  resize_size: int | None = None
  shots: tuple[int, ...] = SHOTS
  seeds: int = SEEDS
  train_split: str | None = None
  test_split: str | None = None
  preset: str = 'squash'
  fast_dct: bool = False

  def __post_init__(self) -> None:
    for name, value in (('shots', min(self.shots)), ('seeds', self.seeds)):
      if value < 1:
        raise InputError(f'{name} must be at least 1, but it is {value}.')


def make_represent_step(model: nn.Module) -> GatherStep:
  """Return step(params, batch) -> the batch with 'features' instead of 'image'.

  The features, (B, D) float32, are the input of the model's head. If the model has a pre_logits
  layer, they are its output.

  Args:
    model: a model with any number of classes. The parameters of its head are not used.
  """
  body = model.clone(num_classes=0)

  def represent_step(params: Params, batch: Batch) -> Arrays:
    features = body.apply({'params': params}, to_input(batch['image']))
    return {k: v for k, v in batch.items() if k != 'image'} | {'features': features}

  return represent_step


class FewShot:
  """The few-shot evaluation on one dataset, for any number of parameters.

  The shots are drawn once. Each evaluation decodes them and the test images once. It holds the
  features of the shots in memory, at most seeds x classes x shots x D float32.

  Attributes:
    dataset: name of the dataset.
    protocol: shots, seeds, splits and image size.
  """

  def __init__(
    self,
    dataset: str,
    represent: Represent,
    protocol: FewShotProtocol,
    options: ReadOptions,
    *,
    data_dir: str | None = None,
  ):
    """Open the dataset and draw the shots.

    Args:
      dataset: a TFDS dataset, a VTAB-1k task or a folder, as for `open_source`.
      represent: function that computes features, from `Partitioner.gather_step` and
        `make_represent_step`.
      protocol: shots, seeds, splits and image size.
      options: for reading batches. Up to `max_bad_records` damaged images of each split are left
        out.
      data_dir: directory of the TFDS datasets.

    Raises:
      InputError: the dataset cannot be read, or a class has fewer images than shots. Calling the
        object raises it if too many images are damaged, or if features are not finite.
    """
    self.dataset, self.protocol = dataset, protocol
    self._represent, self._options = represent, options
    info = describe_dataset(dataset, data_dir)
    train_split = protocol.train_split or info.train_split
    test_split = protocol.test_split or info.eval_split
    if test_split == 'none':
      raise InputError(
        f'Dataset {dataset} has no test images: none of its splits is called validation, val or '
        'test.'
      )
    train = open_source(dataset, train_split, data_dir)
    self._test = open_source(dataset, test_split, data_dir)
    if train.multi_label:
      raise InputError(
        f'Images of dataset {dataset} have several labels, but few-shot evaluation needs one label '
        'per image. Choose another dataset.'
      )
    try:
      self._shots, self._picks = draw_shots(
        train, most=max(protocol.shots), seeds=protocol.seeds, num_threads=options.num_threads
      )
    except InputError as e:
      raise InputError(f'Cannot draw shots from {dataset}, split {train_split!r}. {e}') from e

  @property
  def num_batches(self) -> int:
    """The number of batches that one evaluation reads."""
    return sum(-(-len(source) // self._options.batch_size) for source in (self._shots, self._test))

  def __call__(
    self, params: Params, should_stop: Callable[[], bool] = lambda: False
  ) -> dict[str, float] | None:
    """Return the few-shot accuracy of a model. All processes have to call this.

    Args:
      params: parameters of the model, as `represent` takes them.
      should_stop: called after each batch. Evaluation ends early if it returns True.

    Returns:
      {'fewshot/DATASET_5shot': mean accuracy over the seeds, ...} for each number of shots, or None
      if evaluation ended early.
    """
    counts = self.count_correct(params, should_stop)
    if counts is None:
      return None
    correct, examples = counts
    accuracies = correct.mean(axis=0) / examples
    return {self.metric(k): float(x) for k, x in zip(self.protocol.shots, accuracies)}

  def metric(self, shots: int) -> str:
    """Return the name of the accuracy with this number of shots."""
    return f'fewshot/{self.dataset.strip("./~")}_{shots}shot'

  def count_correct(
    self, params: Params, should_stop: Callable[[], bool] = lambda: False
  ) -> tuple[np.ndarray, int] | None:
    """Count the test images that each classifier classifies correctly.

    Args:
      params: see `__call__`.
      should_stop: see `__call__`.

    Returns:
      The counts, (seeds, numbers of shots) int, and the number of test images. None if evaluation
      ended early.
    """
    batches = []
    for batch in self._representations(params, self._shots):
      batches.append(batch)
      if should_stop():
        return None
    classifiers = self._fit(
      np.concatenate([batch['example'] for batch in batches]),
      np.concatenate([batch['features'] for batch in batches]),
    )
    correct, examples = np.zeros(len(classifiers), int), 0
    for batch in self._representations(params, self._test):
      for i, classifier in enumerate(classifiers):
        predictions = classifier.scores(batch['features']).argmax(1)
        correct[i] += np.sum(predictions == batch['label'])
      examples += len(batch['label'])
      if should_stop():
        return None
    return correct.reshape(-1, len(self.protocol.shots)), examples

  def _fit(self, examples: np.ndarray, features: np.ndarray) -> list[Classifier]:
    """Return a classifier for each seed and each number of shots.

    Args:
      examples: (N,) int, indices into the shots. Damaged images are missing.
      features: (N, D).
    """
    if not np.isfinite(features).all():
      raise InputError(
        f'The features of an image of {self.dataset} are not finite. The training may have '
        'diverged.'
      )
    row_of_shot = np.full(len(self._shots), -1)  # -1 for damaged images
    row_of_shot[examples] = np.arange(len(examples))
    classifiers = []
    for picks in self._picks:  # (classes, most)
      for shots in self.protocol.shots:
        rows = row_of_shot[picks[:, :shots]]  # (classes, shots)
        labels, _ = np.nonzero(rows >= 0)
        classifiers.append(fit_classifier(features[rows[rows >= 0]], labels, len(rows)))
    return classifiers

  def _representations(self, params: Params, source: Source) -> Iterator[Arrays]:
    """Yield the batches of a source with 'features' instead of 'image', without masked rows."""
    preprocess = make_eval_preprocess(
      self.protocol.preset,
      self.protocol.image_size,
      resize_size=self.protocol.resize_size,
      eval_filter='bilinear',
      apply_exif=source.apply_exif,
      fast_dct=self.protocol.fast_dct,
    )
    with eval_batches(source, preprocess, self._options) as batches:
      for batch in batches:
        represented = self._represent(params, batch)
        yield {name: value[represented['mask']] for name, value in represented.items()}
