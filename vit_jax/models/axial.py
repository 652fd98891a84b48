"""The block of axial attention, which attends along rows and then along columns (paper D.6)."""

from flax import linen as nn
import jax

from vit_jax.models.dropout import Dropout, StochasticDepth, fold_in
from vit_jax.models.layers import BlockConfig, LayerScale, MlpBlock, MultiHeadDotProductAttention
from vit_jax.models.linear import add_broadcast
from vit_jax.models.norm import LayerNorm
from vit_jax.models.position import PositionEmbedding, RelativePosition


def split_lines(x: jax.Array, grid: tuple[int, int], axis: str) -> jax.Array:
  """Turn each line of the grid into a sequence: (B, H * W, D) -> (B * H, W, D) for axis='row'.

  For axis='column' the result is (B * W, H, D).
  """
  (h, w), d = grid, x.shape[-1]
  if axis == 'row':
    return x.reshape(-1, w, d)
  return x.reshape(-1, h, w, d).swapaxes(1, 2).reshape(-1, h, d)


def join_lines(x: jax.Array, grid: tuple[int, int], axis: str) -> jax.Array:
  """Undo `split_lines`: (B * H, W, D), or (B * W, H, D) for columns -> (B, H * W, D)."""
  (h, w), d = grid, x.shape[-1]
  if axis == 'row':
    return x.reshape(-1, h * w, d)
  return x.reshape(-1, w, h, d).swapaxes(1, 2).reshape(-1, h * w, d)


class LineBlock(nn.Module):
  """An encoder block whose attention stays within each row or each column."""

  config: BlockConfig
  axis: str  # 'row' or 'column': the lines that tokens attend along

  @nn.compact
  def __call__(
    self, z: jax.Array, keys: jax.Array | None, drop_rate: jax.Array | None
  ) -> jax.Array:
    """Apply the block: (B, H * W, D) -> (B, H * W, D). See `EncoderBlock` for the arguments."""
    c = self.config
    # Equation 2, for each line: z' = MSA(LN(z)) + z
    y = LayerNorm(epsilon=c.norm_eps, dtype=c.dtype)(z)
    y = split_lines(y, c.grid, self.axis)  # (B, N, D) -> (B * lines, tokens of a line, D)
    relative = None
    if c.position == 'relative':
      relative = RelativePosition(c.num_heads, name='relative_position')(y)
    y = MultiHeadDotProductAttention(c.num_heads, c.dtype, c.qkv_bias)(y, relative=relative)
    y = join_lines(y, c.grid, self.axis)  # (B * lines, tokens of a line, D) -> (B, N, D)
    y = LayerScale(c.layer_scale)(y)
    y = Dropout(c.dropout, site=2)(y, keys)
    z = z + StochasticDepth(site=3)(y, keys, drop_rate)

    # Equation 3: z = MLP(LN(z')) + z'
    y = LayerNorm(epsilon=c.norm_eps, dtype=c.dtype)(z)
    y = MlpBlock(c.mlp_dim, c.dropout, c.activation, c.dtype)(y, keys)
    y = LayerScale(c.layer_scale)(y)
    return z + StochasticDepth(site=4)(y, keys, drop_rate)


class AxialBlock(nn.Module):
  """Attention along rows and an MLP, then attention along columns and an MLP."""

  config: BlockConfig

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    keys: jax.Array | None = None,
    drop_rate: jax.Array | None = None,
    relative: jax.Array | None = None,
  ) -> jax.Array:
    """Apply the block: (B, H * W, D) -> (B, H * W, D).

    Args:
      z: tokens, the patches row by row.
      keys: one dropout key per example, (B,). None turns dropout off.
      drop_rate: probability that a residual branch is dropped. None turns this off.
      relative: ignored, because rows and columns have relative positions of their own.
    """
    del relative
    c = self.config
    if c.position not in ('none', 'relative'):
      z = add_broadcast(z, PositionEmbedding(c.position, c.grid, name='posembed_input')(z))
    for i, axis in enumerate(('row', 'column')):
      axis_keys = None if keys is None else fold_in(keys, i)
      z = LineBlock(c, axis, name=axis)(z, axis_keys, drop_rate)
    return z
