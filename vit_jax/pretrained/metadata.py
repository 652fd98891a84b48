"""What the arrays of a checkpoint do not tell."""

from typing import NamedTuple


class Metadata(NamedTuple):
  """What a file says of itself besides its arrays; None where it says nothing."""

  num_heads: int | None = None
  activation: str | None = None  # as create_model spells it: 'gelu_tanh', 'gelu', 'quick_gelu'
  norm_eps: float | None = None
  head: str | None = None  # 'token', 'gap' or 'map'
  pos_embedding: str | None = None  # 'learned', 'learned2d', 'relative', 'sincos2d', 'none'
  pos_embedding_at: str | None = None  # 'stem', 'every', 'shared'
  image_size: tuple[int, int] | None = None  # pixels, (height, width)
  image_mean: tuple[float, ...] | None = None  # of the pixels in [0, 1], for red, green, blue
  image_std: tuple[float, ...] | None = None  # ours are .5 and .5: pixels in [-1, 1]
  class_names: list[str] | None = None
  model: str | None = None  # as create_model spells it, 'ViT-B/16'
  format: str | None = None  # of the file: 'npz', 'timm', 'hf' or 'orbax'


# What a model records of itself, and checks when it loads a file that tells.
MODEL_FIELDS = ('activation', 'norm_eps', 'head', 'pos_embedding', 'pos_embedding_at')
