"""Metadata of a checkpoint: the properties of a model that its arrays do not show."""

from typing import NamedTuple

# Properties that a model has as fields of the same names.
MODEL_FIELDS = ('activation', 'norm_eps', 'head', 'pos_embedding', 'pos_embedding_at')


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

  def updated(self, other: 'Metadata') -> 'Metadata':
    """Return a copy whose properties are replaced by those that `other` records."""
    return self._replace(**{k: v for k, v in other._asdict().items() if v is not None})

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


def unpublished(metadata: Metadata) -> list[str]:
  """Return 'field=value' for each property in which a model differs from the published ones.

  An npz file has no place for them, so its reader would take the published values.
  """
  return [
    f'{field}={value!r}'
    for field, default in PUBLISHED._asdict().items()
    if default is not None and (value := getattr(metadata, field)) not in (None, default)
  ]
