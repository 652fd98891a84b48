"""Position embeddings (paper appendix D.4)."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models.initializers import normal

POSITIONS = ('learned', 'learned2d', 'relative', 'sincos2d', 'none')
PLACES = ('stem', 'every', 'shared')


def sincos2d(grid: tuple[int, int], dim: int, temperature: float = 10_000.0) -> np.ndarray:
  """Return fixed sines and cosines of both coordinates (arXiv 2104.02057), (h * w, dim) float32.

  The four quarters of the channels are sin x, cos x, sin y and cos y, at dim / 4 frequencies from 1
  down to 1 / temperature.
  """
  frequencies = temperature ** -np.linspace(0, 1, dim // 4)
  y, x = (np.outer(c.ravel(), frequencies) for c in np.mgrid[: grid[0], : grid[1]])
  return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], 1).astype(np.float32)


class PositionEmbedding(nn.Module):
  """The embedding of each token's position, E_pos of equation 1.

  Kinds: 'learned' has one row per token. In 'learned2d', half of the channels come from the row of
  the grid and half from the column. 'sincos2d' is fixed. In the last two a class token gets zeros.
  """

  kind: str
  grid: tuple[int, int]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Return the embedding for tokens x, (B, [1 +] h * w, D), as (1, [1 +] h * w, D) float32."""
    (h, w), (length, d), init = self.grid, x.shape[1:], normal(0.02)
    if self.kind == 'learned':
      return self.param('pos_embedding', init, (1, length, d))
    if self.kind == 'learned2d':
      rows = self.param('rows', init, (h, d // 2))
      columns = self.param('columns', init, (w, d // 2))
      embedding = jnp.concatenate([jnp.repeat(rows, w, axis=0), jnp.tile(columns, (h, 1))], axis=1)
    else:
      embedding = jnp.asarray(sincos2d(self.grid, d))
    return jnp.pad(embedding, ((length - h * w, 0), (0, 0)))[None]


class RelativePosition(nn.Module):
  """Embeddings of the offsets between L tokens, for `relative_logits`.

  Offsets count along the sequence, in which the class token is the first element.
  """

  num_heads: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Return the embeddings (2L-1, H, K) for tokens x, (B, L, D), where K = D / H."""
    _, length, d = x.shape
    shape = (2 * length - 1, self.num_heads, d // self.num_heads)
    return self.param('embedding', normal(0.02), shape)
