"""The images of a run: its training and evaluation splits, opened and preprocessed as it says."""

import jax
from ml_collections import ConfigDict

from vit_jax.config.fields import rand_augment
from vit_jax.data.augment import make_augment
from vit_jax.data.batch import ReadOptions
from vit_jax.data.open_source import describe_dataset, open_source
from vit_jax.data.pipeline import Batches, eval_batches, train_batches
from vit_jax.data.preprocess import EvalPreprocess, make_eval_preprocess, make_train_preprocess
from vit_jax.data.source import Source
from vit_jax.data.subset import without
from vit_jax.dedup.ids_file import excluded_positions, read_ids
from vit_jax.errors import InputError
from vit_jax.training.metrics import log


class Inputs:
  """What a config reads.

  Attributes:
    train: the training split.
    eval: the evaluation split, named eval_name; None when there is none.
    num_classes: of the head.
  """

  def __init__(self, c: ConfigDict):
    """Raises InputError when the data are not there or do not fit the config."""
    about = describe_dataset(c.dataset, c.data_dir or None)
    self._config = c
    self.train = open_source(c.dataset, c.train_split or about.train_split, c.data_dir or None)
    if c.exclude_ids:
      self.train = _without(self.train, c, c.train_split or about.train_split)
    self.eval_name = c.eval_split or about.eval_split
    self.eval = None
    if self.eval_name != 'none':
      self.eval = open_source(c.dataset, self.eval_name, c.data_dir or None)
    self.num_classes = c.num_classes or self.train.num_classes
    if self.num_classes < self.train.num_classes:
      raise InputError(
        f'config.num_classes={c.num_classes}, but {c.dataset} has {self.train.num_classes} classes'
      )
    if self.train.multi_label and c.loss != 'sigmoid' and not c.pretext:
      raise InputError(
        f'the images of {c.dataset} have several labels each, for which '
        f'config.loss={c.loss!r} is not made; set config.loss=sigmoid'
      )
    self._flip = about.flip if c.flip == 'auto' else c.flip == 'yes'
    self._augment = make_augment(*rand_augment(c), c.augment_ops or None)

  def train_batches(self, start_step: int) -> Batches:
    """This process's share of the training batches from `start_step` on."""
    c = self._config
    preprocess = make_train_preprocess(
      c.preset,
      c.image_size,
      resize_size=c.resize_size or None,
      flip=self._flip,
      apply_exif=self.train.apply_exif,
      augment=self._augment,
    )
    return train_batches(
      self.train, preprocess, self._read_options(), seed=c.seed, start_step=start_step
    )

  def eval_batches(self) -> Batches:
    """This process's share of one pass over the evaluation split."""
    return eval_batches(self.eval, self.eval_preprocess(), self._read_options())

  def eval_preprocess(self) -> EvalPreprocess:
    """Return the preprocessing of the evaluation split."""
    c = self._config
    return make_eval_preprocess(
      c.preset, c.image_size, resize_size=c.resize_size or None, apply_exif=self.eval.apply_exif
    )

  def _read_options(self) -> ReadOptions:
    c = self._config
    return ReadOptions(
      batch_size=c.batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=c.num_threads or None,
      num_workers=c.num_workers,
      max_bad_records=c.max_bad_records,
    )


def _without(source: Source, c: ConfigDict, split: str) -> Source:
  """The training images without those that config.exclude_ids lists."""
  positions = excluded_positions(read_ids(c.exclude_ids), c.dataset, split, c.data_dir or None)
  log.info(
    '%s: %s of %s training images are left out, as %s says',
    c.dataset,
    f'{len(positions):,}',
    f'{len(source):,}',
    c.exclude_ids,
  )
  return without(source, positions)
