"""Open the training and evaluation splits that a config names."""

import jax
from ml_collections import ConfigDict
import numpy as np

from vit_jax.config.fields import rand_augment
from vit_jax.data.augment import make_augment
from vit_jax.data.batch import Batch, ReadOptions
from vit_jax.data.open_source import describe_dataset, open_source, split_names
from vit_jax.data.pipeline import Batches, eval_batches, train_batches
from vit_jax.data.preprocess import EvalPreprocess, make_eval_preprocess, make_train_preprocess
from vit_jax.data.source import Source
from vit_jax.data.subset import without
from vit_jax.dedup.ids_file import excluded_positions, read_ids
from vit_jax.errors import InputError, shortlist
from vit_jax.training.log import log


class Inputs:
  """The images of a run.

  Attributes:
    train: the training split.
    eval: the evaluation split, or None if the run does not evaluate.
    eval_name: name of the evaluation split, in TFDS notation.
    num_classes: width of the head.
  """

  def __init__(self, config: ConfigDict):
    """Open the splits.

    Raises:
      InputError: the data is not there, or it does not fit the config.
    """
    c = self._config = config
    info = describe_dataset(c.dataset, c.data_dir)
    self.train = _open_train_split(c, c.train_split or info.train_split)
    self.eval_name = c.eval_split or info.eval_split
    self.eval: Source | None = None
    if self.eval_name == 'none':
      _warn_of_no_evaluation(c)
    else:
      self.eval = open_source(c.dataset, self.eval_name, c.data_dir)
    self.num_classes = c.num_classes or self.train.num_classes
    _check_labels(c, self.train)
    self._flip = info.flip if c.flip == 'auto' else c.flip == 'yes'
    self._augment = make_augment(*rand_augment(c), c.augment_ops)

  def train_batches(self, start_step: int) -> Batches:
    """Return this process's share of the training batches from `start_step` on."""
    c = self._config
    preprocess = make_train_preprocess(
      c.preset,
      c.image_size,
      resize_size=c.resize_size,
      flip=self._flip,
      apply_exif=self.train.apply_exif,
      fast_dct=c.fast_dct,
      augment=self._augment,
    )
    return train_batches(
      self.train,
      preprocess,
      self._read_options(),
      seed=c.seed,
      start_step=start_step,
      balance=c.class_balance,
    )

  def train_shapes(self) -> Batch:
    """Return the shapes of a training batch of all processes together."""
    c, n, shape = self._config, self._config.batch_size, jax.ShapeDtypeStruct
    labels = shape((n,), np.int32)
    if self.train.multi_label:
      labels = shape((n, self.train.num_classes), np.uint8)
    return Batch(
      image=shape((n, c.image_size, c.image_size, 3), np.uint8),
      label=labels,
      mask=shape((n,), np.bool_),
      example=shape((n,), np.int32),
    )

  def eval_batches(self) -> Batches:
    """Return this process's share of one pass over the evaluation split."""
    assert self.eval is not None
    return eval_batches(self.eval, self.eval_preprocess(), self._read_options())

  def eval_preprocess(self) -> EvalPreprocess:
    """Return the preprocessing of the evaluation split."""
    assert self.eval is not None
    c = self._config
    return make_eval_preprocess(
      c.preset,
      c.image_size,
      resize_size=c.resize_size,
      eval_filter=c.eval_filter,
      apply_exif=self.eval.apply_exif,
      fast_dct=c.fast_dct,
    )

  def _read_options(self) -> ReadOptions:
    c = self._config
    return ReadOptions(
      batch_size=c.batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=c.num_threads,
      num_workers=c.num_workers,
      max_bad_records=c.max_bad_records,
    )


def _open_train_split(c: ConfigDict, split: str) -> Source:
  """Open the training split, without the images that config.exclude_ids lists."""
  source = open_source(c.dataset, split, c.data_dir)
  if source.empty_classes and not c.allow_empty_classes:
    raise InputError(
      f'{c.dataset} has no training images of {len(source.empty_classes):,} of its '
      f'{source.num_classes:,} classes: {shortlist(source.empty_classes, 5)}. Add images, remove '
      'the folders of these classes, or pass --config.allow_empty_classes=True.'
    )
  if not c.exclude_ids:
    return source
  positions = excluded_positions(read_ids(c.exclude_ids), c.dataset, split, c.data_dir)
  log.info(
    '%s: leaving out %s of %s training images, which %s lists.',
    c.dataset,
    f'{len(positions):,}',
    f'{len(source):,}',
    c.exclude_ids,
  )
  return without(source, positions)


def _warn_of_no_evaluation(c: ConfigDict) -> None:
  """Warn that the run is not evaluated, unless the config says so."""
  if c.eval_split is None and jax.process_index() == 0:
    log.warning(
      'NO EVALUATION: %s has no split that is called val, validation, valid, test or the like. Its '
      'splits are %s. Choose one with --config.eval_split, such as train[90%%:] with '
      '--config.train_split=train[:90%%], or pass --config.eval_split=none.',
      c.dataset,
      ', '.join(split_names(c.dataset, c.data_dir)),
    )


def _check_labels(c: ConfigDict, train: Source) -> None:
  if c.num_classes is not None and c.num_classes < train.num_classes:
    raise InputError(
      f'config.num_classes={c.num_classes} is too small: {c.dataset} has {train.num_classes} '
      'classes.'
    )
  if train.multi_label and c.loss != 'sigmoid' and not c.pretext:
    raise InputError(
      f'config.loss={c.loss!r} needs one label per image, but images of {c.dataset} have several. '
      'Set --config.loss=sigmoid.'
    )
