"""The table of model sizes (paper table 1 and the sizes that followed it)."""

from typing import NamedTuple


class Variant(NamedTuple):
  """Size of an encoder: widths in channels, depth in blocks."""
  hidden_dim: int
  mlp_dim: int
  num_heads: int
  num_layers: int


VARIANTS = {
    'Ti': Variant(192, 768, 3, 12),
    'S': Variant(384, 1536, 6, 12),
    'B': Variant(768, 3072, 12, 12),
    'L': Variant(1024, 4096, 16, 24),
    'H': Variant(1280, 5120, 16, 32),
    'g': Variant(1408, 6144, 16, 40),
    'G': Variant(1664, 8192, 16, 48),
    'e': Variant(1792, 15360, 16, 56),
}
