"""What the arrays of a checkpoint do not tell."""

from typing import NamedTuple


class About(NamedTuple):
  """What a file says of itself besides its arrays; None where it says nothing."""
  num_heads: int | None = None
  activation: str | None = None  # as create_model spells it: 'gelu_tanh', 'gelu', 'quick_gelu'
  norm_eps: float | None = None
  head: str | None = None  # 'token', 'gap' or 'map'
  image_size: tuple[int, int] | None = None  # pixels, (height, width)
  class_names: list[str] | None = None
  model: str | None = None  # as create_model spells it, 'ViT-B/16'
  format: str | None = None  # of the file: 'npz', 'timm', 'hf' or 'orbax'
