"""The Vision Transformer and its hybrid (paper section 3.1, equations 1-4).

Parameters carry the names and shapes of the published checkpoints, so that loading one is
a rename.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.layers import (
  Dropout,
  LayerScale,
  MlpBlock,
  MultiHeadDotProductAttention,
  PatchEmbedding,
  StochasticDepth,
  fold_in,
  shard_batch,
  xavier_uniform,
)
from vit_jax.models.position import PositionEmbedding, RelativePosition
from vit_jax.models.resnet import hybrid_features
from vit_jax.models.sizes import ResNet, Variant

HEADS = ('token', 'gap', 'map')
Layer = Callable[..., nn.Module]  # makes a layer, given its name
# What a block keeps for the backward pass: everything, the products with weights, its input alone.
REMAT = {
  'none': lambda block: block,
  'dots': lambda block: jax.checkpoint(
    block, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  ),
  'full': jax.checkpoint,
}


class EncoderBlock(nn.Module):
  """Pre-LayerNorm attention and MLP, each with a residual (equations 2 and 3)."""

  attention: Layer
  mlp: Layer
  norm: Layer
  position: Layer | None  # makes this block's own position embedding
  relative: Layer | None  # makes this block's own table of relative positions
  layer_scale: float
  dropout: float
  along: Callable[[Callable], Callable] | None = None  # wraps attention to run along an axis

  @nn.compact
  def __call__(self, x, keys, relative=None, drop_rate=None):
    scale = lambda y, name: LayerScale(self.layer_scale, name=name)(y) if self.layer_scale else y
    attention = self.attention(name='MultiHeadDotProductAttention_0')

    def attend(y):
      table = self.relative(name='relative_position')(y) if self.relative else relative
      return attention(y, relative=table)

    if self.position:
      x = self.position(name='posembed_input')(x)
    y = self.norm(name='LayerNorm_0')(x)
    y = scale((self.along(attend) if self.along else attend)(y), 'LayerScale_0')
    y = Dropout(self.dropout, 2)(y, keys)
    x = x + StochasticDepth(3)(y, keys, drop_rate)
    y = self.norm(name='LayerNorm_1')(x)
    y = scale(self.mlp(name='MlpBlock_0')(y, keys), 'LayerScale_1')
    return x + StochasticDepth(4)(y, keys, drop_rate)


class AxialBlock(nn.Module):
  """Attention along rows and an MLP, then along columns and an MLP (paper D.6)."""

  block: Layer
  position: Layer | None
  grid: tuple[int, int]

  @nn.compact
  def __call__(self, x, keys, relative=None, drop_rate=None):
    if self.position:
      x = self.position(name='posembed_input')(x)
    b, n, d = x.shape
    h, w = self.grid

    def along_rows(attend):
      return lambda y: attend(y.reshape(b * h, w, d)).reshape(b, n, d)

    def along_columns(attend):
      def apply(y):
        y = attend(y.reshape(b, h, w, d).swapaxes(1, 2).reshape(b * w, h, d))
        return y.reshape(b, w, h, d).swapaxes(1, 2).reshape(b, n, d)

      return apply

    for i, (name, along) in enumerate([('row', along_rows), ('column', along_columns)]):
      block = self.block(position=None, along=along, name=name)
      x = block(x, None if keys is None else fold_in(keys, i), relative, drop_rate)
    return x


class Encoder(nn.Module):
  """Position embedding, blocks, final LayerNorm: (B, N, D) -> (B, N [+ registers], D)."""

  num_layers: int
  block: Layer
  norm: Layer
  position: Layer | None  # makes the one position embedding
  share: bool  # adds it before every block, not only before the first
  relative: Layer | None  # makes the one table of relative positions
  pre_norm: bool
  dropout: float
  stochastic_depth: float
  scan: bool
  remat: str

  @nn.compact
  def __call__(self, x, registers, keys):
    position = self.position(name='posembed_input') if self.position else None
    relative = self.relative(name='relative_position')(x) if self.relative else None
    if position and not self.share:
      x = position(x)
    if registers is not None:
      x = jnp.concatenate([x, registers], axis=1)
    x = Dropout(self.dropout, 0)(x, keys)
    if self.pre_norm:
      x = self.norm(name='pre_norm')(x)
    shared = position if self.share else None
    rates = None  # of dropping a block's branches: from 0 in the first to the full in the last
    if self.stochastic_depth:
      rates = np.linspace(0, self.stochastic_depth, self.num_layers, dtype=np.float32)
    if self.is_initializing() or not (self.scan or self.remat != 'none'):
      for i in range(self.num_layers):
        x = shard_batch(shared(x) if shared else x)
        block = self.block(name=f'encoderblock_{i}')
        x = block(
          x,
          None if keys is None else fold_in(keys, i + 1),
          relative,
          None if rates is None else rates[i],
        )
    else:
      x = self._transformed_blocks(x, keys, relative, rates)
    return self.norm(name='encoder_norm')(shard_batch(x))

  def _transformed_blocks(self, x, keys, relative, rates):
    """The same blocks under jax.checkpoint and in a scan.

    Parameters stay one tree per block, as on disk: they are stacked here, a copy whose time is
    nothing beside a block's.
    """
    params = self.variables['params']
    block = self.block(parent=None)

    def apply(x, inputs):
      params_of_block, i, rate = inputs
      if self.share and self.position:
        x = self.position(parent=None).apply({'params': params.get('posembed_input', {})}, x)
      block_keys = None if keys is None else fold_in(keys, i + 1)
      return block.apply(
        {'params': params_of_block}, shard_batch(x), block_keys, relative, rate
      ), None

    apply = REMAT[self.remat](apply)
    blocks = [params[f'encoderblock_{i}'] for i in range(self.num_layers)]
    if self.scan:
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
      return jax.lax.scan(apply, x, (stacked, jnp.arange(self.num_layers), rates))[0]
    for i, params_of_block in enumerate(blocks):
      x, _ = apply(x, (params_of_block, i, None if rates is None else rates[i]))
    return x


class MAPHead(nn.Module):
  """Multi-head attention pooling by a learned probe: (B, L, D) -> (B, D) (arXiv 2106.04560)."""

  attention: Layer
  mlp: Layer
  norm: Layer

  @nn.compact
  def __call__(self, x):
    b, _, d = x.shape
    probe = self.param('probe', xavier_uniform((0, 1)), (1, 1, d))
    probe = jnp.broadcast_to(probe.astype(x.dtype), (b, 1, d))
    x = self.attention(name='MultiHeadDotProductAttention_0')(probe, x)
    y = self.norm(name='LayerNorm_0')(x)
    return (x + self.mlp(name='MlpBlock_0')(y, None))[:, 0]


class VisionTransformer(nn.Module):
  """ViT: images (B, H, W, 3) in [-1, 1] -> logits (B, num_classes) in float32.

  Build one with `create_model`, which checks the values of these fields.
  """

  variant: Variant
  patch_size: int  # pixels, or positions of the ResNet's output
  image_size: tuple[int, int]  # pixels, (height, width)
  num_classes: int  # 0: no head, the representation (B, D)
  resnet: ResNet | None = None  # a hybrid's
  head: str = 'token'  # 'token' (the class token, paper), 'gap' (mean of the patches), 'map'
  representation_size: int | None = None  # width of the pretraining head's hidden layer
  head_bias_init: float = 0.0
  dropout: float = 0.0
  stochastic_depth: float = 0.0  # how often the last block drops a branch; linear from 0, the first
  pos_embedding: str = 'learned'  # 'learned2d', 'relative', 'sincos2d', 'none' (paper D.4)
  pos_embedding_at: str = 'stem'  # 'stem': added once; 'every' layer its own; 'shared' by all
  attention: str = 'full'  # or 'axial' (paper D.6)
  activation: str = 'gelu_tanh'  # 'gelu', 'quick_gelu'
  norm_eps: float = 1e-6
  pre_norm: bool = False  # a LayerNorm before the first block
  patch_bias: bool = True
  qkv_bias: bool = True
  layer_scale: float = 0.0  # initial value; 0: none
  scan: bool = False  # over the blocks: compiles one of them, in a fraction of the time
  remat: str = 'none'  # 'dots', 'full': keeps less for the backward pass, computes it again
  registers: int = 0  # learned tokens beside the patches, without a position (arXiv 2309.16588)
  dtype: Any = jnp.float32  # of the computation; parameters are float32

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of patches."""
    return self.image_size[0] // self.stride, self.image_size[1] // self.stride

  @property
  def stride(self) -> int:
    """Side of a patch in pixels."""
    return self.patch_size * (self.resnet.stride if self.resnet else 1)

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool = False, examples: jax.Array | None = None
  ) -> jax.Array:
    """Applies the model.

    Args:
      images: (B, H, W, 3) in [-1, 1], of `image_size`.
      train: turns dropout and stochastic depth on; needs rngs={'dropout': key}.
      examples: (B,) each image's index in the global batch; None: 0, 1, ... An example gets
        the same masks on whatever device and in whatever pass it is computed.
    Returns:
      (B, num_classes) float32; the representation (B, D) when num_classes is 0.
    """
    x = self._encode(self._embed(images), self._dropout_keys(images.shape[0], train, examples))
    x = self._pool(x)  # (B, L, D) -> (B, D)
    if self.representation_size:
      x = jnp.tanh(nn.Dense(self.representation_size, dtype=self.dtype, name='pre_logits')(x))
    x = x.astype(jnp.float32)
    if not self.num_classes:
      return x
    return nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(self.head_bias_init),
      name='head',
    )(x)

  def _dropout_keys(self, size: int, train: bool, examples: jax.Array | None) -> jax.Array | None:
    """One for each image, None when nothing is dropped."""
    if not (train and (self.dropout or self.stochastic_depth)):
      return None
    examples = jnp.arange(size) if examples is None else examples
    return jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng('dropout'), examples)

  def _embed(self, images: jax.Array) -> jax.Array:
    """(B, H, W, 3) -> (B, N, D), the patches."""
    if images.shape[1:3] != self.image_size:
      raise InputError(
        f'images are {images.shape[1]}x{images.shape[2]} but the model was made '
        f'for {self.image_size[0]}x{self.image_size[1]}; '
        'create_model(..., image_size=...) sets it'
      )
    x = images
    if self.resnet:
      x = hybrid_features(x, self.resnet, self.dtype)
    return PatchEmbedding(
      self.patch_size, self.variant.hidden_dim, self.patch_bias, self.dtype, name='embedding'
    )(x)

  def _encode(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
    """(B, N, D) -> (B, [1 +] N [+ registers], D)."""
    dim = self.variant.hidden_dim
    tokens = lambda name, n, init: jnp.broadcast_to(
      self.param(name, init, (1, n, dim)).astype(x.dtype), (x.shape[0], n, dim)
    )
    registers = None
    if self.registers:
      registers = tokens('registers', self.registers, nn.initializers.normal(1e-6))
    if self.head == 'token':
      x = jnp.concatenate([tokens('cls', 1, nn.initializers.zeros), x], axis=1)
    return self._encoder()(x, registers, keys)

  def _layers(self) -> tuple[Layer, Layer, Layer]:
    """What makes attentions, MLPs and LayerNorms."""
    return (
      functools.partial(
        MultiHeadDotProductAttention, self.variant.num_heads, self.dtype, self.qkv_bias
      ),
      functools.partial(MlpBlock, self.variant.mlp_dim, self.dropout, self.activation, self.dtype),
      functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype),
    )

  def _encoder(self) -> nn.Module:
    attention, mlp, norm = self._layers()
    position = relative = None
    if self.pos_embedding == 'relative':
      relative = functools.partial(RelativePosition, self.variant.num_heads)
    elif self.pos_embedding != 'none':
      position = functools.partial(PositionEmbedding, self.pos_embedding, self.grid)
    share = self.pos_embedding_at == 'shared'
    own_position = position if self.pos_embedding_at == 'every' else None
    block = functools.partial(
      EncoderBlock,
      attention,
      mlp,
      norm,
      relative=None if share else relative,
      layer_scale=self.layer_scale,
      dropout=self.dropout,
    )
    if self.attention == 'axial':
      block = functools.partial(AxialBlock, block, own_position, self.grid)
    else:
      block = functools.partial(block, position=own_position)
    return Encoder(
      self.variant.num_layers,
      block,
      norm,
      None if own_position else position,
      share,
      relative if share else None,
      self.pre_norm,
      self.dropout,
      self.stochastic_depth,
      self.scan,
      self.remat,
      name='Transformer',
    )

  def _pool(self, x: jax.Array) -> jax.Array:
    if self.head == 'token':
      return x[:, 0]
    x = x[:, : self.grid[0] * self.grid[1]]  # without the registers, which come last
    if self.head == 'gap':
      return x.mean(axis=1)
    attention, _, norm = self._layers()
    mlp = functools.partial(MlpBlock, self.variant.mlp_dim, 0.0, self.activation, self.dtype)
    return MAPHead(attention, mlp, norm, name='MAPHead_0')(x)
