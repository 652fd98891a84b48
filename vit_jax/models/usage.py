"""Describe the use of a trained model: how images are prepared, and what the outputs mean."""

from __future__ import annotations

import dataclasses
from typing import Any

# How evaluation resizes images, and the filter with which the published code does it.
DEFAULT_FILTERS = {'inception': 'area', 'bit': 'bilinear', 'squash': 'bilinear'}


@dataclasses.dataclass(frozen=True)
class Usage:
  """Facts about using a trained model, besides the model itself. None: not known.

  A model from `load_model` carries it as `model.usage`, where `predict`, `save_params` and the
  exports find it. It is not part of what the model computes from pixels in [-1, 1].

  Attributes:
    preset: how evaluation resizes images: 'bit', 'inception' or 'squash', see
      `vit_jax.data.preprocess`.
    resize_size: size of the images before they are cropped, in pixels.
    eval_filter: filter with which evaluation resizes images, see `vit_jax.data.resample`.
    fast_dct: decode JPEGs with the fast DCT, as TensorFlow does by default.
    loss: the loss that the model was trained with, 'softmax' or 'sigmoid'.
    class_names: names of the classes, in the order of the head. There may be fewer than classes.
  """

  preset: str | None = None
  resize_size: int | None = None
  eval_filter: str | None = None
  fast_dct: bool | None = None
  loss: str | None = None
  class_names: tuple[str, ...] | None = None

  def names(self, num_classes: int) -> list[str] | None:
    """Return a name for each class of a head, which may be wider than the dataset has classes.

    None: the names are not known, or there are more than the head has classes.
    """
    if not self.class_names or len(self.class_names) > num_classes:
      return None
    unnamed = range(len(self.class_names), num_classes)
    return [*self.class_names, *(f'class {i}' for i in unnamed)]

  def updated(
    self,
    *,
    preset: str | None = None,
    resize_size: int | None = None,
    eval_filter: str | None = None,
    fast_dct: bool | None = None,
    loss: str | None = None,
  ) -> CompleteUsage:
    """Return a copy with the values that are given, and with defaults for what is not known.

    The defaults are those of the published fine-tuned models. Another preset has another
    resize_size and filter, so the recorded ones are then dropped.
    """
    old = self.preset or 'bit'
    preset = preset or old
    if preset == old:
      resize_size = self.resize_size if resize_size is None else resize_size
      eval_filter = eval_filter or self.eval_filter
    return CompleteUsage(
      preset=preset,
      resize_size=resize_size,
      eval_filter=eval_filter or DEFAULT_FILTERS.get(preset, 'bilinear'),
      fast_dct=bool(self.fast_dct if fast_dct is None else fast_dct),
      loss=loss or self.loss or 'softmax',
      class_names=self.class_names,
    )


@dataclasses.dataclass(frozen=True)
class CompleteUsage(Usage):
  """A `Usage` in which everything that is needed is known."""

  preset: str = 'bit'
  eval_filter: str = 'bilinear'
  fast_dct: bool = False
  loss: str = 'softmax'


def usage_of(model: Any) -> Usage:
  """Return `model.usage`. A model of another package, which has none, gives an empty one."""
  return getattr(model, 'usage', Usage())


def usage_field() -> Any:
  """Return the field `usage` of a model. Models that compute the same are equal without it."""
  return dataclasses.field(default=Usage(), compare=False, repr=False)
