"""The Vision Transformer (paper section 3.1, equations 1-4).

Parameters carry the names and shapes of the published checkpoints, so that loading one is
a rename. The hot spots are written the way that measured fastest (benchmarks/layers.py):
patches by reshape and matmul, three projections straight into (B, H, L, K), attention as
batched matmuls with the heads in front.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
from jax.extend.random import threefry_2x32
import jax.numpy as jnp

from vit_jax.errors import InputError
from vit_jax.models.variants import Variant

gelu = lambda x: nn.gelu(x, approximate=True)
_per_example = jax.vmap(jax.random.fold_in, in_axes=(0, None))


def xavier_uniform(in_axis: int | tuple[int, ...] = 0, out_axis: int | tuple[int, ...] = -1):
  """Xavier-uniform over a kernel whose fan-in or fan-out spans several axes."""
  return nn.initializers.variance_scaling(1., 'fan_avg', 'uniform', in_axis, out_axis)


def dropout_mask(keys: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
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


class Dropout(nn.Module):
  """Zeroes elements with probability `rate` and rescales the rest; keys None turns it off."""
  rate: float
  site: int  # folded into the keys, so that no two places of a block share a mask

  def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
    if keys is None or self.rate == 0:
      return x
    keep = dropout_mask(_per_example(keys, self.site), x.shape[1:], self.rate)
    return jnp.where(keep, x / (1 - self.rate), 0)


class PatchEmbedding(nn.Module):
  """Linear projection of flattened patches: (B, H, W, C) -> (B, H/P * W/P, D) (equation 1)."""
  patch_size: int
  hidden_dim: int
  dtype: Any

  @nn.compact
  def __call__(self, images):
    p = self.patch_size
    b, h, w, c = images.shape
    kernel = self.param('kernel', nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
                        (p, p, c, self.hidden_dim))
    bias = self.param('bias', nn.initializers.zeros, (self.hidden_dim,))
    images, kernel, bias = nn.dtypes.promote_dtype(images, kernel, bias, dtype=self.dtype)
    patches = images.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(b, -1, p * p * c)
    return patches @ kernel.reshape(-1, self.hidden_dim) + bias


class AddPositionEmbedding(nn.Module):
  """Adds a learned 1-D position embedding (1, L, D) (equation 1)."""

  @nn.compact
  def __call__(self, x):
    embedding = self.param('pos_embedding', nn.initializers.normal(.02), (1, *x.shape[1:]))
    return x + embedding.astype(x.dtype)


class MultiHeadDotProductAttention(nn.Module):
  """Multi-head self-attention (paper appendix A): (B, L, D) -> (B, L, D), softmax in float32."""
  num_heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    d, h = x.shape[-1], self.num_heads
    project = lambda name: nn.Einsum(
        (d, h, d // h), 'bld,dhk->bhlk', dtype=self.dtype,
        kernel_init=xavier_uniform(0, (1, 2)), name=name)(x)
    q, k, v = project('query'), project('key'), project('value')
    logits = jnp.einsum('bhlk,bhmk->bhlm', q * (d // h)**-.5, k,
                        preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits).astype(v.dtype)
    y = jnp.einsum('bhlm,bhmk->bhlk', weights, v)
    return nn.Einsum((h, d // h, d), 'bhlk,hkd->bld', dtype=self.dtype,
                     kernel_init=xavier_uniform((0, 1), 2), name='out')(y)


class MlpBlock(nn.Module):
  """Two dense layers with a GELU between them (equation 3)."""
  mlp_dim: int
  dropout: float
  activation: Callable[[jax.Array], jax.Array]
  dtype: Any

  @nn.compact
  def __call__(self, x, keys):
    dense = lambda features, name: nn.Dense(
        features, dtype=self.dtype, kernel_init=xavier_uniform(),
        bias_init=nn.initializers.normal(1e-6), name=name)
    y = self.activation(dense(self.mlp_dim, 'Dense_0')(x))
    y = Dropout(self.dropout, 0)(y, keys)
    y = dense(x.shape[-1], 'Dense_1')(y)
    return Dropout(self.dropout, 1)(y, keys)


class EncoderBlock(nn.Module):
  """Pre-LayerNorm attention and MLP, each with a residual (equations 2 and 3)."""
  variant: Variant
  dropout: float
  activation: Callable[[jax.Array], jax.Array]
  dtype: Any

  @nn.compact
  def __call__(self, x, keys):
    norm = lambda name: nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)
    y = norm('LayerNorm_0')(x)
    y = MultiHeadDotProductAttention(
        self.variant.num_heads, self.dtype, name='MultiHeadDotProductAttention_0')(y)
    x = x + Dropout(self.dropout, 2)(y, keys)
    y = norm('LayerNorm_1')(x)
    return x + MlpBlock(self.variant.mlp_dim, self.dropout, self.activation, self.dtype,
                        name='MlpBlock_0')(y, keys)


class Encoder(nn.Module):
  """Position embedding, L blocks, final LayerNorm: (B, N, D) -> (B, N, D)."""
  variant: Variant
  dropout: float
  activation: Callable[[jax.Array], jax.Array]
  dtype: Any

  @nn.compact
  def __call__(self, x, keys):
    x = AddPositionEmbedding(name='posembed_input')(x)
    x = Dropout(self.dropout, 0)(x, keys)
    for i in range(self.variant.num_layers):
      block = EncoderBlock(self.variant, self.dropout, self.activation, self.dtype,
                           name=f'encoderblock_{i}')
      x = block(x, None if keys is None else _per_example(keys, i + 1))
    return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name='encoder_norm')(x)


class VisionTransformer(nn.Module):
  """ViT: images (B, H, W, 3) in [-1, 1] -> logits (B, num_classes) in float32.

  Build one with `create_model`, which checks the values of these fields.
  """
  variant: Variant
  patch_size: int
  image_size: tuple[int, int]  # pixels, (height, width)
  num_classes: int
  head: str = 'token'  # 'token' (the class token, paper) or 'gap' (mean of the patches)
  representation_size: int | None = None  # width of the pretraining head's hidden layer
  head_bias_init: float = 0.
  dropout: float = 0.
  activation: Callable[[jax.Array], jax.Array] = gelu
  dtype: Any = jnp.float32  # of the computation; parameters are float32

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False,
               first_example: jax.Array | int = 0) -> jax.Array:
    """Applies the model.

    Args:
      images: (B, H, W, 3) in [-1, 1], of `image_size`.
      train: turns dropout on; needs rngs={'dropout': key}.
      first_example: index of images[0] in the global batch. Example i of the global batch
        gets the same dropout masks on whatever device it is computed.
    Returns:
      (B, num_classes) float32.
    """
    if images.shape[1:3] != self.image_size:
      raise InputError(f'images are {images.shape[1]}x{images.shape[2]} but the model was made '
                       f'for {self.image_size[0]}x{self.image_size[1]}; '
                       'create_model(..., image_size=...) sets it')
    keys = None
    if train and self.dropout:
      examples = first_example + jnp.arange(len(images))
      keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng('dropout'), examples)
    x = PatchEmbedding(self.patch_size, self.variant.hidden_dim, self.dtype,
                       name='embedding')(images)
    if self.head == 'token':
      cls = self.param('cls', nn.initializers.zeros, (1, 1, self.variant.hidden_dim))
      cls = jnp.broadcast_to(cls.astype(x.dtype), (len(x), 1, x.shape[-1]))
      x = jnp.concatenate([cls, x], axis=1)
    x = Encoder(self.variant, self.dropout, self.activation, self.dtype,
                name='Transformer')(x, keys)
    x = x[:, 0] if self.head == 'token' else x.mean(axis=1)  # (B, L, D) -> (B, D)
    if self.representation_size:
      x = jnp.tanh(nn.Dense(self.representation_size, dtype=self.dtype, name='pre_logits')(x))
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros,
                    bias_init=nn.initializers.constant(self.head_bias_init),
                    name='head')(x.astype(jnp.float32))
