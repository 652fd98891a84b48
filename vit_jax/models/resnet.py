"""ResNets: BiT (v2, arXiv 1912.11370), and the v1 whose output a hybrid splits into patches.

Both have GroupNorm and standardized convolutions, but differ in details: epsilons, padding, and the
place of the norm. Parameters carry the published names.
"""

from flax import linen as nn
from flax.linen.dtypes import promote_dtype
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vit_jax.models.initializers import lecun_normal
from vit_jax.models.sizes import ResNet
from vit_jax.models.usage import Usage, usage_field


def standardize(kernel: jax.Array, *, eps: float, eps_in_root: bool) -> jax.Array:
  """Give a kernel zero mean and unit variance over (height, width, in), for each output channel."""
  kernel = kernel - kernel.mean(axis=(0, 1, 2))
  variance = jnp.mean(kernel**2, axis=(0, 1, 2))
  return kernel / (jnp.sqrt(variance + eps) if eps_in_root else jnp.sqrt(variance) + eps)


class StdConv(nn.Module):
  """Convolution with a standardized kernel and without bias."""

  features: int
  size: int  # side of the kernel
  stride: int
  v2: bool
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Convolve: (B, H, W, C) -> (B, H / stride, W / stride, features)."""
    init = lecun_normal((0, 1, 2))
    kernel = self.param('kernel', init, (self.size, self.size, x.shape[-1], self.features))
    if self.v2:
      kernel = standardize(kernel, eps=1e-10, eps_in_root=True)
      padding = [(self.size // 2, self.size // 2)] * 2
    else:
      kernel = standardize(kernel, eps=1e-5, eps_in_root=False)
      padding = 'SAME'
    x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
    return jax.lax.conv_general_dilated(
      x, kernel, (self.stride,) * 2, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


class NestedStdConv(nn.Module):
  """A v2 convolution whose kernel lies one level deeper, under standardized_conv2d."""

  features: int
  size: int
  stride: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Convolve: (B, H, W, C) -> (B, H / stride, W / stride, features)."""
    return StdConv(
      self.features, self.size, self.stride, True, self.dtype, name='standardized_conv2d'
    )(x)


class GroupNorm(nn.Module):
  """GroupNorm of 32 groups whose parameters have BiT's names, gamma and beta."""

  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalize x, (B, H, W, C)."""
    gamma = self.param('gamma', nn.initializers.ones, x.shape[-1:])
    beta = self.param('beta', nn.initializers.zeros, x.shape[-1:])
    x = nn.GroupNorm(32, epsilon=1e-5, use_bias=False, use_scale=False, dtype=jnp.float32)(x)
    return (x * gamma + beta).astype(self.dtype)


class PreActivation(nn.Module):
  """Norm, ReLU, convolution."""

  features: int
  size: int
  stride: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Apply the three: (B, H, W, C) -> (B, H / stride, W / stride, features)."""
    x = nn.relu(GroupNorm(self.dtype, name='group_norm')(x))
    return StdConv(
      self.features, self.size, self.stride, True, self.dtype, name='standardized_conv2d'
    )(x)


class PreActivationWithShortcut(nn.Module):
  """Norm, ReLU and two 1x1 convolutions: the first of a unit, and its shortcut's projection."""

  features: int
  shortcut_features: int
  shortcut_stride: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the output of the convolution, (B, H, W, features), and the projected shortcut."""
    x = nn.relu(GroupNorm(self.dtype, name='group_norm')(x))
    y = StdConv(self.features, 1, 1, True, self.dtype, name='standardized_conv2d')(x)
    project = NestedStdConv(
      self.shortcut_features, 1, self.shortcut_stride, self.dtype, name='proj'
    )
    return y, project(x)


class UnitV2(nn.Module):
  """Bottleneck of three pre-activation convolutions with a shortcut."""

  features: int
  stride: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Apply the unit: (B, H, W, C) -> (B, H / stride, W / stride, 4 * features)."""
    n = self.features
    if self.stride > 1 or x.shape[-1] != 4 * n:
      y, x = PreActivationWithShortcut(n, 4 * n, self.stride, self.dtype, name='a')(x)
    else:
      y = PreActivation(n, 1, 1, self.dtype, name='a')(x)
    y = PreActivation(n, 3, self.stride, self.dtype, name='b')(y)
    return x + PreActivation(4 * n, 1, 1, self.dtype, name='c')(y)


class UnitV1(nn.Module):
  """Bottleneck of three convolutions, each followed by its norm, with a ReLU after the sum."""

  features: int
  stride: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Apply the unit: (B, H, W, C) -> (B, H / stride, W / stride, 4 * features)."""

    def conv(x: jax.Array, features: int, size: int, stride: int, name: str) -> jax.Array:
      return StdConv(features, size, stride, False, self.dtype, name=name)(x)

    def norm(
      x: jax.Array, name: str, scale_init: nn.initializers.Initializer = nn.initializers.ones
    ) -> jax.Array:
      return nn.GroupNorm(32, epsilon=1e-6, dtype=self.dtype, scale_init=scale_init, name=name)(x)

    n = self.features
    y = nn.relu(norm(conv(x, n, 1, 1, 'conv1'), 'gn1'))
    y = nn.relu(norm(conv(y, n, 3, self.stride, 'conv2'), 'gn2'))
    y = norm(conv(y, 4 * n, 1, 1, 'conv3'), 'gn3', nn.initializers.zeros)
    if self.stride > 1 or x.shape[-1] != 4 * n:
      x = norm(conv(x, 4 * n, 1, self.stride, 'conv_proj'), 'gn_proj')
    return nn.relu(x + y)


class Stage(nn.Module):
  """Units of one width. Only the first changes the resolution."""

  units: int
  features: int
  stride: int
  v2: bool
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Apply the units: (B, H, W, C) -> (B, H / stride, W / stride, 4 * features)."""
    for i in range(self.units):
      stride = self.stride if i == 0 else 1
      if self.v2:
        x = UnitV2(self.features, stride, self.dtype, name=f'unit{i + 1:02}')(x)
      else:
        x = UnitV1(self.features, stride, self.dtype, name=f'unit{i + 1}')(x)
    return x


def apply_stages(x: jax.Array, resnet: ResNet, *, v2: bool, dtype: DTypeLike) -> jax.Array:
  """Apply the stages block1, block2, ... in the calling module.

  Each stage but the first doubles the width and halves the resolution.
  """
  for i, units in enumerate(resnet.units):
    features, stride = resnet.width * 2**i, 1 if i == 0 else 2
    x = Stage(units, features, stride, v2, dtype, name=f'block{i + 1}')(x)
  return x


def hybrid_features(images: jax.Array, resnet: ResNet, dtype: DTypeLike) -> jax.Array:
  """Apply the ResNet of a hybrid (paper section 3.1), with its parameters in the calling module.

  (B, H, W, 3) -> (B, H / stride, W / stride, C), where stride is resnet.stride.
  """
  x = StdConv(resnet.width, 7, 2, False, dtype, name='conv_root')(images)
  x = nn.relu(nn.GroupNorm(32, epsilon=1e-6, dtype=dtype, name='gn_root')(x))
  x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding='SAME')
  return apply_stages(x, resnet, v2=False, dtype=dtype)


class ConvHead(nn.Module):
  """A 1x1 convolution to the classes in float32, as in the published heads of BiT."""

  num_classes: int
  bias_init: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Classify features: (B, 1, 1, C) -> (B, 1, 1, num_classes)."""
    return nn.Conv(
      self.num_classes,
      (1, 1),
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(self.bias_init),
      name='conv2d',
    )(x)


class ResNetV2(nn.Module):
  """The layers of BiT."""

  resnet: ResNet
  num_classes: int
  head_bias_init: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Return logits (B, num_classes) in float32, or features (B, C) when num_classes is 0."""
    x = NestedStdConv(self.resnet.width, 7, 2, self.dtype, name='root_block')(images)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # pad with zeros; max_pool pads with -inf
    x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding='VALID')
    x = apply_stages(x, self.resnet, v2=True, dtype=self.dtype)
    x = nn.relu(GroupNorm(self.dtype, name='group_norm')(x))
    x = x.mean(axis=(1, 2), keepdims=True, dtype=jnp.float32)  # (B, H, W, C) -> (B, 1, 1, C)
    if self.num_classes:
      x = ConvHead(self.num_classes, self.head_bias_init, name='head')(x)
    return x[:, 0, 0]


class BiT(nn.Module):
  """Big Transfer ResNet: images (B, H, W, 3) in [-1, 1] -> logits (B, num_classes) in float32.

  It takes images of any size. `image_size` is the size at which parameters are initialized.
  """

  resnet: ResNet
  image_size: tuple[int, int]
  num_classes: int  # 0: the model has no head and returns its features (B, C)
  head_bias_init: float = 0.0
  dtype: DTypeLike = jnp.float32
  usage: Usage = usage_field()  # what `load_model` knows about using the model

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool = False, examples: jax.Array | None = None
  ) -> jax.Array:
    """Apply the model. It computes the same in training and evaluation."""
    del train, examples
    model = ResNetV2(self.resnet, self.num_classes, self.head_bias_init, self.dtype, name='resnet')
    return model(images)
