"""The tables of model sizes (paper table 1, the sizes that followed it, and ResNets)."""

from typing import NamedTuple


class Variant(NamedTuple):
  """Size of an encoder: widths in channels, depth in blocks."""

  hidden_dim: int
  mlp_dim: int
  num_heads: int
  num_layers: int


class ResNet(NamedTuple):
  """Size of a ResNet: units per stage, channels of the stem (stage b has 4 * 2**(b-1) as many)."""

  units: tuple[int, ...]
  width: int = 64

  @property
  def stride(self) -> int:
    """Pixels per position of the output: 4 after the stem, doubled by each stage but the first."""
    return 4 * 2 ** max(0, len(self.units) - 1)


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

RESNET_UNITS = {
  'R26': (2, 2, 2, 2),
  'R50': (3, 4, 6, 3),
  'R101': (3, 4, 23, 3),
  'R152': (3, 8, 36, 3),
}
