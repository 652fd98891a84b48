"""Tables of model sizes: the paper's (table 1), those of later papers, and ResNets."""

from typing import NamedTuple


class Variant(NamedTuple):
  """Size of an encoder."""

  hidden_dim: int  # channels of a token, D
  mlp_dim: int  # channels inside an MLP
  num_heads: int
  num_layers: int  # blocks


class ResNet(NamedTuple):
  """Size of a ResNet."""

  units: tuple[int, ...]  # units of each stage; empty for only the stem
  width: int = 64  # channels of the stem; stage b = 1, 2, ... has 4 * 2**(b-1) times as many

  @property
  def stride(self) -> int:
    """The pixels per position of the output: 4 up to stage 1, doubled by each later stage."""
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
