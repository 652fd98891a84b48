"""The layers of Transformers: patch embedding, attention, MLP, LayerScale.

The hot spots are written in the way that measured fastest (benchmarks/layers.py): patches by
reshape and matmul, three projections straight into (B, H, L, K), attention as batched matmuls
with the heads in front. Only cuDNN's attention takes (B, L, H, K).
"""

import dataclasses

from flax import linen as nn
from flax.linen.dtypes import promote_dtype
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vit_jax.models.activation_functions import ACTIVATIONS
from vit_jax.models.dot_product_attention import (
  attend,
  cudnn_attention,
  even_length,
  suitable_implementation,
)
from vit_jax.models.dropout import Dropout
from vit_jax.models.initializers import lecun_normal, normal, xavier_uniform
from vit_jax.models.linear import Linear, add_broadcast


@dataclasses.dataclass(frozen=True)
class BlockConfig:
  """Fields that all blocks of an encoder share."""

  num_heads: int
  mlp_dim: int
  grid: tuple[int, int]  # rows and columns of patches
  position: str = 'none'  # each block's own position embedding, one of POSITIONS
  dropout: float = 0.0
  activation: str = 'gelu_tanh'  # one of ACTIVATIONS
  norm_eps: float = 1e-6
  qkv_bias: bool = True
  layer_scale: float | None = None  # initial value; None or 0: no LayerScale
  attention_implementation: str | None = None  # one of IMPLEMENTATIONS
  dtype: DTypeLike = jnp.float32


def repeat_tokens(tokens: jax.Array, x: jax.Array) -> jax.Array:
  """Repeat learned tokens (1, n, D) for each example of x, (B, L, D). Returns (B, n, D) like x."""
  return jnp.broadcast_to(tokens.astype(x.dtype), (x.shape[0], *tokens.shape[1:]))


class PatchEmbedding(nn.Module):
  """Linear projection of flattened patches, x_p E of equation 1."""

  patch_size: int
  hidden_dim: int
  use_bias: bool
  dtype: DTypeLike

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Embed the patches: (B, H, W, C) -> (B, N, D), where N = H / P * W / P."""
    p = self.patch_size
    b, h, w, c = images.shape
    kernel = self.param('kernel', lecun_normal((0, 1, 2)), (p, p, c, self.hidden_dim))
    images, kernel = promote_dtype(images, kernel, dtype=self.dtype)
    # (B, H, W, C) -> (B, N, P * P * C)
    patches = images.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(b, (h // p) * (w // p), p * p * c)
    x = patches @ kernel.reshape(-1, self.hidden_dim)
    if not self.use_bias:
      return x
    bias = self.param('bias', nn.initializers.zeros, (self.hidden_dim,))
    return add_broadcast(x, bias[None, None])


class MultiHeadDotProductAttention(nn.Module):
  """Multi-head attention, MSA of equation 2 (paper appendix A), with its softmax in float32."""

  num_heads: int
  dtype: DTypeLike
  qkv_bias: bool = True
  implementation: str | None = 'plain'  # one of IMPLEMENTATIONS; None: by platform and length

  @nn.compact
  def __call__(
    self, x: jax.Array, source: jax.Array | None = None, relative: jax.Array | None = None
  ) -> jax.Array:
    """Attend from x to source: (B, L, D) -> (B, L, D).

    Args:
      x: tokens that queries are made of, (B, L, D).
      source: tokens that keys and values are made of, (B, M, D). Defaults to x.
      relative: embeddings (2L-1, H, K) of the offsets -(L-1)..L-1. They are the keys of a second
        attention, whose logits are added (paper D.4).
    """
    d, h = x.shape[-1], self.num_heads
    implementation = self.implementation
    # Initialization needs only shapes, and may run on another platform than the training.
    if self.is_initializing() or relative is not None:
      implementation = 'plain'
    elif implementation is None:
      implementation = suitable_implementation(x.shape[1], d // h, self.dtype)
    fused = implementation == 'cudnn'
    axes = 'blhk' if fused else 'bhlk'  # of queries, keys and values
    source = x if source is None else source
    lengths = x.shape[1], source.shape[1]
    if fused:  # x is padded once, so that its three gradients are added before one slice of them
      even = even_length(x)
      x, source = even, even if source is x else even_length(source)

    def project(name: str, x: jax.Array) -> jax.Array:
      return Linear(
        f'bld,dhk->{axes}',
        (d, h, d // h),
        dtype=self.dtype,
        use_bias=self.qkv_bias,
        kernel_init=xavier_uniform(0, (1, 2)),
        name=name,
      )(x)

    q, k, v = project('query', x), project('key', source), project('value', source)
    if fused:
      y = cudnn_attention(q, k, v, *lengths)
    else:
      q = q * (d // h) ** -0.5
      y = attend(q, k, v, relative=relative, implementation=implementation)
    y = Linear(
      f'{axes},hkd->bld',
      (h, d // h, d),
      dtype=self.dtype,
      kernel_init=xavier_uniform((0, 1), 2),
      name='out',
    )(y)
    return y[:, : lengths[0]]


class MlpBlock(nn.Module):
  """Two dense layers with a GELU between them, MLP of equation 3."""

  mlp_dim: int
  dropout: float
  activation: str  # one of ACTIVATIONS
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
    """Apply the MLP: (B, L, D) -> (B, L, D). keys=None turns dropout off."""

    def dense(x: jax.Array, features: int, name: str) -> jax.Array:
      return Linear(
        'bld,dm->blm',
        (x.shape[-1], features),
        dtype=self.dtype,
        kernel_init=xavier_uniform(),
        bias_init=normal(1e-6),
        name=name,
      )(x)

    y = ACTIVATIONS[self.activation](dense(x, self.mlp_dim, 'Dense_0'))  # (B, L, mlp_dim)
    y = Dropout(self.dropout, site=0)(y, keys)
    y = dense(y, x.shape[-1], 'Dense_1')  # (B, L, mlp_dim) -> (B, L, D)
    return Dropout(self.dropout, site=1)(y, keys)


class LayerScale(nn.Module):
  """A learned factor per channel (arXiv 2103.17239)."""

  init: float | None  # initial value; None or 0: the input is returned unchanged

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Scale the channels of x, (..., D)."""
    if not self.init:
      return x
    scale = self.param('scale', nn.initializers.constant(self.init), x.shape[-1:])
    return x * scale.astype(x.dtype)
