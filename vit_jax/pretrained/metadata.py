"""Metadata of a checkpoint: the properties of a model that its arrays do not show."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from vit_jax.models.usage import Usage

# Properties that a model has as fields of the same names.
MODEL_FIELDS = ('activation', 'norm_eps', 'head', 'pos_embedding', 'pos_embedding_at')
# Properties that a model carries as fields of `model.usage`.
USAGE_FIELDS = tuple(field.name for field in dataclasses.fields(Usage))


class Metadata(NamedTuple):
  """Properties that a checkpoint records besides its arrays. None: not recorded."""

  num_heads: int | None = None
  activation: str | None = None  # as create_model spells it: 'gelu_tanh', 'gelu', 'quick_gelu'
  norm_eps: float | None = None
  head: str | None = None  # 'token', 'gap' or 'map'
  pos_embedding: str | None = None  # 'learned', 'learned2d', 'relative', 'sincos2d', 'none'
  pos_embedding_at: str | None = None  # 'stem', 'every', 'shared'
  image_size: tuple[int, int] | None = None  # pixels, (height, width)
  image_mean: tuple[float, ...] | None = None  # red, green, blue, for pixels in [0, 1]
  image_std: tuple[float, ...] | None = None
  class_names: list[str] | None = None
  model: str | None = None  # as create_model spells it, 'ViT-B/16'
  format: str | None = None  # 'npz', 'timm', 'hf' or 'orbax'
  preset: str | None = None  # this and the following are described in `Usage`
  resize_size: int | None = None
  eval_filter: str | None = None
  fast_dct: bool | None = None
  loss: str | None = None

  def updated(self, other: Metadata) -> Metadata:
    """Return a copy whose properties are replaced by those that `other` records."""
    return self._replace(**{k: v for k, v in other._asdict().items() if v is not None})

  def for_image_size(self, image_size: tuple[int, int]) -> Metadata:
    """Return a copy for images of another size (height, width) in pixels.

    The size before a crop changes in proportion. Images that are not squares are not cropped.
    """
    resize_size = self.resize_size
    if resize_size and self.image_size and image_size[0] != self.image_size[0]:
      resize_size = round(resize_size * image_size[0] / self.image_size[0])
    if resize_size and resize_size < image_size[0]:  # it was for images of an unknown size
      resize_size = None
    new = self._replace(image_size=image_size, resize_size=resize_size)
    if image_size[0] != image_size[1] and self.preset in ('inception', 'squash'):
      return new._replace(preset='bit', resize_size=None)
    return new

  @property
  def says_how_to_use(self) -> bool:
    """True if something is recorded about the images and outputs of the model."""
    usage = dataclasses.replace(self.usage, class_names=None)
    return usage != Usage() or self.custom_normalization is not None

  @property
  def usage(self) -> Usage:
    """The usage that a model with this metadata carries."""
    fields: dict[str, Any] = {field: getattr(self, field) for field in USAGE_FIELDS}
    fields['class_names'] = self.class_names and tuple(self.class_names)
    return Usage(**fields)

  @property
  def custom_normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The (mean, std) that the model expects pixels to be normalized with; None for [-1, 1]."""
    if not self.image_mean or not self.image_std:
      return None
    same = {*self.image_mean, *self.image_std} == {0.5}
    return None if same else (self.image_mean, self.image_std)


EMPTY = Metadata()
# The published npz files do not record these properties of their models.
PUBLISHED = Metadata(activation='gelu_tanh', norm_eps=1e-6)
_PUBLISHED_USAGE = {
  'preset': 'bit',
  'eval_filter': 'bilinear',
  'fast_dct': False,
  'loss': 'softmax',
}


def lost_in_npz(metadata: Metadata) -> list[str]:
  """Return in words what an npz file does not keep of the metadata."""
  properties = [f'{field}={value!r}' for field, value in unpublished_values(metadata).items()]
  return properties + ['the class names'] * bool(metadata.class_names)


def unpublished_values(metadata: Metadata) -> dict[str, Any]:
  """Return {field: value} of each property in which a model differs from the published ones.

  An npz file has no place for them, so its reader would take the published values.
  """
  defaults = {k: v for k, v in PUBLISHED._asdict().items() if v is not None} | _PUBLISHED_USAGE
  if metadata.preset not in (None, 'bit'):
    defaults['resize_size'] = None
  return {
    field: value
    for field, default in defaults.items()
    if (value := getattr(metadata, field)) not in (None, default)
  }
