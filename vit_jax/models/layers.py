"""The layers that transformers are made of: patches, attention, MLP, dropout, LayerScale.

The hot spots are written the way that measured fastest (benchmarks/layers.py): patches by
reshape and matmul, three projections straight into (B, H, L, K), attention as batched
matmuls with the heads in front.
"""

from typing import Any

from flax import linen as nn
import jax
from jax.extend.random import threefry_2x32
import jax.numpy as jnp

ACTIVATIONS = {
  'gelu_tanh': lambda x: nn.gelu(x, approximate=True),  # the published ViTs
  'gelu': lambda x: nn.gelu(x, approximate=False),  # PyTorch's default
  'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's CLIP
}
fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))  # into one key per example


def xavier_uniform(in_axis: int | tuple[int, ...] = 0, out_axis: int | tuple[int, ...] = -1):
  """Xavier-uniform over a kernel whose fan-in or fan-out spans several axes."""
  return nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform', in_axis, out_axis)


def dropout_mask(keys: jax.Array, shape: tuple[int, ...], rate: float | jax.Array) -> jax.Array:
  """Keep-mask (B, *shape) drawn from one key per example.

  A mask depends on its example's key alone, so it is the same however the batch is split
  over devices, hosts and accumulation steps. Each 32-bit draw serves two elements: `rate`
  is rounded to a multiple of 2**-16.
  """
  size = 1
  for n in shape:
    size *= n
  counts = jnp.arange(-(-size // 4) * 2, dtype=jnp.uint32)
  draw = lambda key: threefry_2x32(jax.random.key_data(key)[:2], counts)  # an rbg key has 4 words
  bits = jax.lax.bitcast_convert_type(jax.vmap(draw)(keys), jnp.uint16)  # (B, words, 2)
  bits = bits.reshape(len(keys), -1)[:, :size].reshape(-1, *shape)
  return bits >= jnp.uint16(round(rate * 2**16))


def shard_batch(x: jax.Array) -> jax.Array:
  """Keeps the leading axis split over all axes of the mesh that is set; without one, nothing.

  Left to itself, the compiler of a large mesh may gather activations instead of parameters.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh._any_axis_manual:
    return x
  return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec(mesh.axis_names))


class Dropout(nn.Module):
  """Zeroes elements with probability `rate` and rescales the rest; keys None turns it off."""

  rate: float
  site: int  # folded into the keys, so that no two places of a block share a mask

  def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
    if keys is None or self.rate == 0:
      return x
    keep = dropout_mask(fold_in(keys, self.site), x.shape[1:], self.rate)
    return jnp.where(keep, x / (1 - self.rate), 0)


class StochasticDepth(nn.Module):
  """Drops residual branches of whole examples and rescales the rest (arXiv 1603.09382).

  In `Dropout`'s way, but the rate comes with the input: it differs from block to block.
  """

  site: int

  def __call__(
    self, branch: jax.Array, keys: jax.Array | None, rate: jax.Array | None
  ) -> jax.Array:
    """(B, L, D) -> (B, L, D); keys or rate None turns it off."""
    if keys is None or rate is None:
      return branch
    keep = dropout_mask(fold_in(keys, self.site), (1, 1), rate)
    return jnp.where(keep, (branch / (1 - rate)).astype(branch.dtype), 0)


class PatchEmbedding(nn.Module):
  """Linear projection of flattened patches: (B, H, W, C) -> (B, H/P * W/P, D) (equation 1)."""

  patch_size: int
  hidden_dim: int
  use_bias: bool
  dtype: Any

  @nn.compact
  def __call__(self, images):
    p = self.patch_size
    b, h, w, c = images.shape
    kernel = self.param(
      'kernel', nn.initializers.lecun_normal(in_axis=(0, 1, 2)), (p, p, c, self.hidden_dim)
    )
    images, kernel = nn.dtypes.promote_dtype(images, kernel, dtype=self.dtype)
    patches = images.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(b, (h // p) * (w // p), p * p * c)
    x = patches @ kernel.reshape(-1, self.hidden_dim)
    if self.use_bias:
      x += self.param('bias', nn.initializers.zeros, (self.hidden_dim,)).astype(x.dtype)
    return x


class MultiHeadDotProductAttention(nn.Module):
  """Multi-head attention (paper appendix A): (B, L, D) -> (B, L, D), softmax in float32."""

  num_heads: int
  dtype: Any
  qkv_bias: bool = True

  @nn.compact
  def __call__(
    self, x: jax.Array, source: jax.Array | None = None, relative: jax.Array | None = None
  ) -> jax.Array:
    """Attends from `x` to `source`, (B, M, D), or to itself.

    `relative`, (2L-1, H, K), are embeddings of the offsets -(L-1)..L-1: the keys of a second
    attention whose logits are added (paper D.4).
    """
    d, h = x.shape[-1], self.num_heads
    project = lambda name, x: nn.Einsum(
      (d, h, d // h),
      'bld,dhk->bhlk',
      dtype=self.dtype,
      use_bias=self.qkv_bias,
      kernel_init=xavier_uniform(0, (1, 2)),
      name=name,
    )(x)
    source = x if source is None else source
    q, k, v = project('query', x), project('key', source), project('value', source)
    q = q * (d // h) ** -0.5
    logits = attention_logits(q, k)
    if relative is not None:
      logits += relative_logits(q, relative.astype(q.dtype))
    weights = jax.nn.softmax(logits).astype(v.dtype)
    y = jnp.einsum('bhlm,bhmk->bhlk', weights, v)
    return nn.Einsum(
      (h, d // h, d),
      'bhlk,hkd->bld',
      dtype=self.dtype,
      kernel_init=xavier_uniform((0, 1), 2),
      name='out',
    )(y)


@jax.custom_vjp
def attention_logits(q: jax.Array, k: jax.Array) -> jax.Array:
  """Queries (B, H, L, K) and keys (B, H, M, K) -> (B, H, L, M), in float32.

  The gradient enters its products in the type of the queries, as all others do; jax would make
  them float32, which takes several times as long on matrix units of bfloat16.
  """
  return jnp.einsum('bhlk,bhmk->bhlm', q, k, preferred_element_type=jnp.float32)


def _attention_logits_backward(operands, gradient):
  q, k = operands
  gradient = gradient.astype(q.dtype)
  return (jnp.einsum('bhlm,bhmk->bhlk', gradient, k), jnp.einsum('bhlm,bhlk->bhmk', gradient, q))


attention_logits.defvjp(lambda q, k: (attention_logits(q, k), (q, k)), _attention_logits_backward)


def relative_logits(q: jax.Array, embedding: jax.Array) -> jax.Array:
  """Products of queries (B, H, L, K) with the embedding (2L-1, H, K) of each key's offset.

  Returns (B, H, L, L): [..., l, m] uses row m - l + L - 1. Padding each row by one and
  reading the rows one element shorter moves row l by l to the left, without a gather.
  """
  b, h, l, _ = q.shape
  logits = jnp.einsum('bhlk,nhk->bhln', q, embedding, preferred_element_type=jnp.float32)
  flat = jnp.pad(logits, ((0, 0),) * 3 + ((0, 1),)).reshape(b, h, 2 * l * l)
  return flat[..., l - 1 : l - 1 + l * (2 * l - 1)].reshape(b, h, l, 2 * l - 1)[..., :l]


class MlpBlock(nn.Module):
  """Two dense layers with a GELU between them (equation 3)."""

  mlp_dim: int
  dropout: float
  activation: str
  dtype: Any

  @nn.compact
  def __call__(self, x, keys):
    dense = lambda features, name: nn.Dense(
      features,
      dtype=self.dtype,
      kernel_init=xavier_uniform(),
      bias_init=nn.initializers.normal(1e-6),
      name=name,
    )
    y = ACTIVATIONS[self.activation](dense(self.mlp_dim, 'Dense_0')(x))
    y = Dropout(self.dropout, 0)(y, keys)
    y = dense(x.shape[-1], 'Dense_1')(y)
    return Dropout(self.dropout, 1)(y, keys)


class LayerScale(nn.Module):
  """A learned factor per channel (arXiv 2103.17239)."""

  init: float

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.constant(self.init), x.shape[-1:])
    return x * scale.astype(x.dtype)
