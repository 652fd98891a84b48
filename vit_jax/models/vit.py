"""The Vision Transformer and its hybrid with a ResNet (paper section 3.1).

The code follows the paper's equations:

  z_0  = [x_class; x_1 E; ...; x_N E] + E_pos    (1)  VisionTransformer.embed, .encode, Encoder
  z'_l = MSA(LN(z_{l-1})) + z_{l-1}              (2)  EncoderBlock
  z_l  = MLP(LN(z'_l)) + z'_l                    (3)  EncoderBlock
  y    = LN(z_L^0)                               (4)  Encoder, VisionTransformer.pool

Shapes: B images of H x W pixels, N patches, L tokens (the class token, the patches and the
registers, in this order), D channels. Parameters carry the names and shapes of the published
checkpoints. A layer without an explicit name gets the published one from Flax: LayerNorm_0,
LayerNorm_1, MlpBlock_0, and so on.
"""

from typing import cast

from flax import linen as nn
import jax
from jax.core import Tracer
import jax.numpy as jnp
from jax.typing import DTypeLike
import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.axial import AxialBlock
from vit_jax.models.dropout import Dropout, StochasticDepth, fold_in
from vit_jax.models.initializers import lecun_normal, normal, xavier_uniform
from vit_jax.models.layers import (
  BlockConfig,
  LayerScale,
  MlpBlock,
  MultiHeadDotProductAttention,
  PatchEmbedding,
  repeat_tokens,
)
from vit_jax.models.linear import add_broadcast
from vit_jax.models.norm import LayerNorm
from vit_jax.models.params import Params
from vit_jax.models.placement import shard_batch
from vit_jax.models.position import PositionEmbedding, RelativePosition
from vit_jax.models.resnet import hybrid_features
from vit_jax.models.scan import apply_blocks
from vit_jax.models.sizes import ResNet, Variant
from vit_jax.models.usage import Usage, usage_field

HEADS = ('token', 'gap', 'map')
ATTENTIONS = ('full', 'axial')


class EncoderBlock(nn.Module):
  """Attention and an MLP, each after a LayerNorm and with a residual (equations 2 and 3)."""

  config: BlockConfig

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    keys: jax.Array | None = None,
    drop_rate: jax.Array | None = None,
    relative: jax.Array | None = None,
  ) -> jax.Array:
    """Apply the block: (B, L, D) -> (B, L, D).

    Args:
      z: tokens, (B, L, D).
      keys: one dropout key per example, (B,). None turns dropout off.
      drop_rate: probability that a residual branch is dropped. None turns this off.
      relative: (2L-1, H, K) embeddings of relative positions, when the blocks share them.
    """
    c = self.config
    if c.position == 'relative':
      relative = RelativePosition(c.num_heads, name='relative_position')(z)
    elif c.position != 'none':
      z = add_broadcast(z, PositionEmbedding(c.position, c.grid, name='posembed_input')(z))

    # Equation 2: z' = MSA(LN(z)) + z
    y = LayerNorm(epsilon=c.norm_eps, dtype=c.dtype)(z)
    attention = MultiHeadDotProductAttention(
      c.num_heads, c.dtype, c.qkv_bias, c.attention_implementation
    )
    y = attention(y, relative=relative)
    y = LayerScale(c.layer_scale)(y)
    y = Dropout(c.dropout, site=2)(y, keys)
    z = z + StochasticDepth(site=3)(y, keys, drop_rate)

    # Equation 3: z = MLP(LN(z')) + z'
    y = LayerNorm(epsilon=c.norm_eps, dtype=c.dtype)(z)
    y = MlpBlock(c.mlp_dim, c.dropout, c.activation, c.dtype)(y, keys)
    y = LayerScale(c.layer_scale)(y)
    return z + StochasticDepth(site=4)(y, keys, drop_rate)


class Encoder(nn.Module):
  """All blocks, between the position embedding and the final LayerNorm."""

  num_layers: int
  block: BlockConfig
  attention: str  # one of ATTENTIONS
  position: str  # position embedding outside the blocks; 'none' if each block has its own
  share_position: bool  # add `position` in every block, not only before the first
  pre_norm: bool
  stochastic_depth: float
  scan: bool
  remat: str

  @nn.compact
  def __call__(
    self, x: jax.Array, registers: jax.Array | None, keys: jax.Array | None
  ) -> jax.Array:
    """Apply the encoder: (B, [1 +] N, D) -> (B, [1 +] N [+ registers], D)."""
    c = self.block
    e_pos = relative = None
    if self.position == 'relative':
      relative = RelativePosition(c.num_heads, name='relative_position')(x)
    elif self.position != 'none':
      e_pos = PositionEmbedding(self.position, c.grid, name='posembed_input')(x)  # (1, L, D)

    # Equation 1: z_0 = [x_class; x_1 E; ...; x_N E] + E_pos
    z = x if e_pos is None or self.share_position else add_broadcast(x, e_pos)
    if registers is not None:
      z = jnp.concatenate([z, registers], axis=1)
    z = Dropout(c.dropout, site=0)(z, keys)
    if self.pre_norm:
      z = LayerNorm(epsilon=c.norm_eps, dtype=c.dtype, name='pre_norm')(z)

    # Equations 2 and 3: z_0 -> z_1 -> ... -> z_L
    make_block = AxialBlock if self.attention == 'axial' else EncoderBlock
    rates = [None] * self.num_layers
    if self.stochastic_depth:
      rates = np.linspace(0, self.stochastic_depth, self.num_layers, dtype=np.float32)

    def before_block(z: jax.Array, i: int) -> tuple[jax.Array, jax.Array | None]:
      if e_pos is not None and self.share_position:
        z = add_broadcast(z, e_pos)
      return shard_batch(z), None if keys is None else fold_in(keys, i + 1)

    # Flax creates the parameters of each block in the first branch, and captures intermediates
    # there. The second takes the parameters as values and applies one block that is detached from
    # this module. JAX then traces it only once. Without a trace (outside of jit), it would be
    # compiled at each call of the model.
    one_block = self.scan or self.remat != 'none' or isinstance(x, Tracer)
    if self.is_initializing() or self.is_mutable_collection('intermediates') or not one_block:
      for i in range(self.num_layers):
        z, block_keys = before_block(z, i)
        z = make_block(c, name=f'encoderblock_{i}')(z, block_keys, rates[i], relative)
    else:
      block = make_block(c, parent=None)

      def apply_block(z: jax.Array, inputs: tuple[Params, int, float | None]) -> jax.Array:
        params, i, drop_rate = inputs
        z, block_keys = before_block(z, i)
        output = block.apply({'params': params}, z, block_keys, drop_rate, relative)
        return cast(jax.Array, output)

      params = self.variables['params']
      inputs = [(params[f'encoderblock_{i}'], i, rates[i]) for i in range(self.num_layers)]
      z = apply_blocks(apply_block, z, inputs, scan=self.scan, remat=self.remat)

    # Equation 4, for all tokens: y = LN(z_L)
    return LayerNorm(epsilon=c.norm_eps, dtype=c.dtype, name='encoder_norm')(shard_batch(z))


class MAPHead(nn.Module):
  """Multi-head attention pooling by a learned probe (arXiv 2106.04560)."""

  config: BlockConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Pool the tokens: (B, L, D) -> (B, D)."""
    c = self.config
    probe = self.param('probe', xavier_uniform((0, 1)), (1, 1, x.shape[-1]))
    probe = repeat_tokens(probe, x)  # (1, 1, D) -> (B, 1, D)
    x = MultiHeadDotProductAttention(c.num_heads, c.dtype, c.qkv_bias)(probe, x)
    y = LayerNorm(epsilon=c.norm_eps, dtype=c.dtype)(x)
    x = x + MlpBlock(c.mlp_dim, c.dropout, c.activation, c.dtype)(y, keys=None)
    return x[:, 0]


class VisionTransformer(nn.Module):
  """ViT: images (B, H, W, 3) in [-1, 1] -> logits (B, num_classes) in float32.

  Build one with `create_model`, which checks the values of these fields.
  """

  variant: Variant
  patch_size: int  # side of a patch in pixels, or in positions of the ResNet's output
  image_size: tuple[int, int]  # (height, width) in pixels
  num_classes: int  # 0: the model has no head and returns its representation (B, D)
  resnet: ResNet | None = None  # makes the model a hybrid
  head: str = 'token'  # class token (paper); 'gap': mean over the patches; 'map': MAPHead
  representation_size: int | None = None  # width of the hidden layer of the pretraining head
  head_bias_init: float = 0.0
  dropout: float = 0.0
  stochastic_depth: float = 0.0  # drop rate in the last block; grows linearly from 0
  pos_embedding: str = 'learned'  # 'learned2d', 'relative', 'sincos2d', 'none' (paper D.4)
  pos_embedding_at: str = 'stem'  # 'every': one per block; 'shared': one for all blocks
  attention: str = 'full'  # or 'axial' (paper D.6)
  attention_implementation: str | None = None  # one of IMPLEMENTATIONS; None: by platform
  activation: str = 'gelu_tanh'  # 'gelu', 'quick_gelu'
  norm_eps: float = 1e-6
  pre_norm: bool = False  # put a LayerNorm before the first block
  patch_bias: bool = True
  qkv_bias: bool = True
  layer_scale: float | None = None  # initial value; None or 0: no LayerScale
  scan: bool = False  # compile one block and scan over all, which compiles several times faster
  remat: str = 'none'  # 'dots', 'full': keep fewer activations for the backward pass
  registers: int = 0  # learned tokens after the patches, without position (arXiv 2309.16588)
  dtype: DTypeLike = jnp.float32  # type of the computation; parameters are float32
  usage: Usage = usage_field()  # what `load_model` knows about using the model

  @property
  def grid(self) -> tuple[int, int]:
    """The rows and columns of patches."""
    return self.image_size[0] // self.stride, self.image_size[1] // self.stride

  @property
  def stride(self) -> int:
    """The side of a patch in pixels."""
    return self.patch_size * (self.resnet.stride if self.resnet else 1)

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool = False, examples: jax.Array | None = None
  ) -> jax.Array:
    """Apply the model.

    Args:
      images: (B, H, W, 3) in [-1, 1], where (H, W) is `image_size`.
      train: turns dropout and stochastic depth on, which need rngs={'dropout': key}.
      examples: (B,) the index of each image in the global batch, by default 0 to B - 1. An example
        gets the same dropout masks on any device and in any accumulation pass.

    Returns:
      (B, num_classes) float32 logits, or the representation (B, D) when num_classes is 0.
    """
    # Not len(images): an exported program has a symbolic batch size.
    keys = self.dropout_keys(images.shape[0], train, examples)
    x = self.embed(images)  # (B, H, W, 3) -> (B, N, D)
    x = self.encode(x, keys)  # (B, N, D) -> (B, L, D)
    x = self.pool(x)  # (B, L, D) -> (B, D)
    if self.representation_size:
      width = self.representation_size
      dense = nn.Dense(width, dtype=self.dtype, kernel_init=lecun_normal(), name='pre_logits')
      x = jnp.tanh(dense(x))
    x = x.astype(jnp.float32)
    if not self.num_classes:
      return x
    return nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(self.head_bias_init),
      name='head',
    )(x)  # (B, D) -> (B, num_classes)

  # The steps of __call__. A subclass with another __call__ (masked patch prediction) uses them too.

  def dropout_keys(
    self, batch_size: int, train: bool, examples: jax.Array | None
  ) -> jax.Array | None:
    """Return one dropout key for each image, (B,), or None when nothing is dropped."""
    if not (train and (self.dropout or self.stochastic_depth)):
      return None
    examples = jnp.arange(batch_size) if examples is None else examples
    return jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng('dropout'), examples)

  def embed(self, images: jax.Array) -> jax.Array:
    """Embed the patches of images, x_1 E, ..., x_N E: (B, H, W, 3) -> (B, N, D)."""
    if images.shape[1:3] != self.image_size:
      height, width = self.image_size
      raise InputError(
        f'The images are {images.shape[1]}x{images.shape[2]}, but the model was made for '
        f'{height}x{width}. Create the model with image_size set to the size of the images.'
      )
    x = hybrid_features(images, self.resnet, self.dtype) if self.resnet else images
    dim = self.variant.hidden_dim
    return PatchEmbedding(self.patch_size, dim, self.patch_bias, self.dtype, name='embedding')(x)

  def encode(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
    """Encode patches with the class token and registers: (B, N, D) -> (B, L, D)."""
    dim, registers = x.shape[-1], None
    if self.registers:
      registers = self.param('registers', normal(1e-6), (1, self.registers, dim))
      registers = repeat_tokens(registers, x)
    if self.head == 'token':  # [x_class; x_1 E; ...; x_N E]
      x_class = repeat_tokens(self.param('cls', nn.initializers.zeros, (1, 1, dim)), x)
      x = jnp.concatenate([x_class, x], axis=1)  # (B, N, D) -> (B, 1 + N, D)
    return Encoder(
      num_layers=self.variant.num_layers,
      block=self._block_config(),
      attention=self.attention,
      position='none' if self._positions_in_blocks() else self.pos_embedding,
      share_position=self.pos_embedding_at == 'shared',
      pre_norm=self.pre_norm,
      stochastic_depth=self.stochastic_depth,
      scan=self.scan,
      remat=self.remat,
      name='Transformer',
    )(x, registers, keys)

  def pool(self, x: jax.Array) -> jax.Array:
    """Return the representation of images, y of equation 4: (B, L, D) -> (B, D)."""
    if self.head == 'token':
      return x[:, 0]
    x = x[:, : self.grid[0] * self.grid[1]]  # without the registers, which come last
    return x.mean(axis=1) if self.head == 'gap' else MAPHead(self._block_config())(x)

  def _block_config(self) -> BlockConfig:
    return BlockConfig(
      num_heads=self.variant.num_heads,
      mlp_dim=self.variant.mlp_dim,
      grid=self.grid,
      position=self.pos_embedding if self._positions_in_blocks() else 'none',
      dropout=self.dropout,
      activation=self.activation,
      norm_eps=self.norm_eps,
      qkv_bias=self.qkv_bias,
      layer_scale=self.layer_scale,
      attention_implementation=self.attention_implementation,
      dtype=self.dtype,
    )

  def _positions_in_blocks(self) -> bool:
    """Return True if each block has a position embedding of its own.

    Relative positions act inside attention, so 'stem' gives each block its own too.
    """
    at = self.pos_embedding_at
    return at == 'every' or (at == 'stem' and self.pos_embedding == 'relative')
