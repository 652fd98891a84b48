"""Position embeddings (paper appendix D.4)."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

POSITIONS = ('learned', 'learned2d', 'relative', 'sincos2d', 'none')
PLACES = ('stem', 'every', 'shared')


def sincos2d(grid: tuple[int, int], dim: int, temperature: float = 10_000.0) -> np.ndarray:
  """Fixed sines and cosines of both coordinates (arXiv 2104.02057): (h * w, dim) float32.

  The four quarters of the channels are sin x, cos x, sin y, cos y, at dim / 4 frequencies
  from 1 down to 1 / temperature.
  """
  frequencies = temperature ** -np.linspace(0, 1, dim // 4)
  y, x = (np.outer(c.ravel(), frequencies) for c in np.mgrid[: grid[0], : grid[1]])
  return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], 1).astype(np.float32)


class PositionEmbedding(nn.Module):
  """Adds a position embedding to (B, [1 +] h * w, D) (equation 1).

  Kinds: 'learned', one row for each token; 'learned2d', the halves of the channels by row
  and by column of the grid; 'sincos2d'. The last two add nothing to a class token.
  """

  kind: str
  grid: tuple[int, int]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    (h, w), (length, d), init = self.grid, x.shape[1:], nn.initializers.normal(0.02)
    if self.kind == 'learned':
      return x + self.param('pos_embedding', init, (1, length, d)).astype(x.dtype)
    if self.kind == 'learned2d':
      rows = self.param('rows', init, (h, d // 2))
      columns = self.param('columns', init, (w, d // 2))
      embedding = jnp.concatenate([jnp.repeat(rows, w, axis=0), jnp.tile(columns, (h, 1))], axis=1)
    else:
      embedding = jnp.asarray(sincos2d(self.grid, d))
    embedding = jnp.pad(embedding, ((length - h * w, 0), (0, 0)))
    return x + embedding.astype(x.dtype)


class RelativePosition(nn.Module):
  """Embeddings (2L-1, H, K) of the offsets between L tokens, for `relative_logits`.

  Offsets run along the sequence, the class token being its first element.
  """

  num_heads: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    _, length, d = x.shape
    return self.param(
      'embedding',
      nn.initializers.normal(0.02),
      (2 * length - 1, self.num_heads, d // self.num_heads),
    )
