"""ResNets: BiT (v2, arXiv 1912.11370) and the v1 that a hybrid's patches come from.

Both have GroupNorm and standardised convolutions, and differ in every detail of them:
epsilons, padding, the place of the norm. Parameters carry the published names.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models.sizes import ResNet


def standardize(kernel: jax.Array, *, eps: float, eps_in_root: bool) -> jax.Array:
  """Zero mean and unit variance over (height, width, in), for each output channel."""
  kernel = kernel - kernel.mean(axis=(0, 1, 2))
  variance = jnp.mean(kernel**2, axis=(0, 1, 2))
  return kernel / (jnp.sqrt(variance + eps) if eps_in_root else jnp.sqrt(variance) + eps)


class StdConv(nn.Module):
  """Convolution without bias, its kernel standardised: (B, H, W, C) -> (B, H', W', features)."""

  features: int
  size: int
  stride: int
  v2: bool
  dtype: Any

  @nn.compact
  def __call__(self, x):
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
      (self.size, self.size, x.shape[-1], self.features),
    )
    kernel = (
      standardize(kernel, eps=1e-10, eps_in_root=True)
      if self.v2
      else standardize(kernel, eps=1e-5, eps_in_root=False)
    )
    x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
    padding = [(self.size // 2,) * 2] * 2 if self.v2 else 'SAME'
    return jax.lax.conv_general_dilated(
      x, kernel, (self.stride,) * 2, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


class GroupNorm(nn.Module):
  """GroupNorm of 32 groups with BiT's names: gamma, beta."""

  dtype: Any

  @nn.compact
  def __call__(self, x):
    gamma = self.param('gamma', nn.initializers.ones, x.shape[-1:])
    beta = self.param('beta', nn.initializers.zeros, x.shape[-1:])
    x = nn.GroupNorm(32, epsilon=1e-5, use_bias=False, use_scale=False, dtype=jnp.float32)(x)
    return (x * gamma + beta).astype(self.dtype)


class Named(nn.Module):
  """What `make()` makes, one level deeper in the parameters' names."""

  make: Callable[[], nn.Module]

  @nn.compact
  def __call__(self, x):
    return self.make()(x)


class PreActivation(nn.Module):
  """Norm, ReLU, convolution; with `project`, the channels of a shortcut, also its convolution."""

  features: int
  size: int
  stride: int
  dtype: Any
  project: int | None = None
  project_stride: int = 1

  @nn.compact
  def __call__(self, x):
    conv = lambda features, size, stride: StdConv(
      features, size, stride, True, self.dtype, name='standardized_conv2d'
    )
    x = nn.relu(GroupNorm(self.dtype, name='group_norm')(x))
    y = conv(self.features, self.size, self.stride)(x)
    if self.project is None:
      return y
    return y, Named(lambda: conv(self.project, 1, self.project_stride), name='proj')(x)


class UnitV2(nn.Module):
  """Bottleneck of three pre-activation convolutions with a shortcut."""

  features: int
  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    n = self.features
    if self.stride > 1 or x.shape[-1] != 4 * n:
      y, x = PreActivation(n, 1, 1, self.dtype, 4 * n, self.stride, name='a')(x)
    else:
      y = PreActivation(n, 1, 1, self.dtype, name='a')(x)
    y = PreActivation(n, 3, self.stride, self.dtype, name='b')(y)
    return x + PreActivation(4 * n, 1, 1, self.dtype, name='c')(y)


class UnitV1(nn.Module):
  """Bottleneck of three convolutions, each followed by its norm; ReLU after the sum."""

  features: int
  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    n = self.features
    conv = lambda features, size, stride, name: StdConv(
      features, size, stride, False, self.dtype, name=name
    )
    norm = lambda name, **kw: nn.GroupNorm(32, epsilon=1e-6, dtype=self.dtype, name=name, **kw)
    y = nn.relu(norm('gn1')(conv(n, 1, 1, 'conv1')(x)))
    y = nn.relu(norm('gn2')(conv(n, 3, self.stride, 'conv2')(y)))
    y = norm('gn3', scale_init=nn.initializers.zeros)(conv(4 * n, 1, 1, 'conv3')(y))
    if self.stride > 1 or x.shape[-1] != 4 * n:
      x = norm('gn_proj')(conv(4 * n, 1, self.stride, 'conv_proj')(x))
    return nn.relu(x + y)


class Stage(nn.Module):
  """Units of one width; all but the first keep the resolution."""

  unit: Callable[..., nn.Module]
  units: int
  stride: int
  unit_name: str  # 'unit{:02}' or 'unit{}'

  @nn.compact
  def __call__(self, x):
    for i in range(self.units):
      x = self.unit(stride=self.stride if i == 0 else 1, name=self.unit_name.format(i + 1))(x)
    return x


def stages(
  x: jax.Array, resnet: ResNet, unit: Callable[..., nn.Module], unit_name: str
) -> jax.Array:
  """Stages block1, block2, ... in the calling module: widths double, so does the stride."""
  for b, units in enumerate(resnet.units):
    x = Stage(
      functools.partial(unit, features=resnet.width * 2**b),
      units,
      1 if b == 0 else 2,
      unit_name,
      name=f'block{b + 1}',
    )(x)
  return x


def hybrid_features(images: jax.Array, resnet: ResNet, dtype: Any) -> jax.Array:
  """A hybrid's ResNet (paper section 3.1), its parameters in the calling module.

  (B, H, W, 3) -> (B, H / stride, W / stride, C), stride = resnet.stride.
  """
  x = StdConv(resnet.width, 7, 2, False, dtype, name='conv_root')(images)
  x = nn.relu(nn.GroupNorm(32, epsilon=1e-6, dtype=dtype, name='gn_root')(x))
  x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding='SAME')
  return stages(x, resnet, functools.partial(UnitV1, dtype=dtype), 'unit{}')


class ResNetV2(nn.Module):
  """BiT's layers: (B, H, W, 3) -> (B, K) float32, or features (B, C) when K is 0."""

  resnet: ResNet
  num_classes: int
  head_bias_init: float
  dtype: Any

  @nn.compact
  def __call__(self, images):
    x = Named(
      lambda: StdConv(self.resnet.width, 7, 2, True, self.dtype, name='standardized_conv2d'),
      name='root_block',
    )(images)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros, not max_pool's -inf
    x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding='VALID')
    x = stages(x, self.resnet, functools.partial(UnitV2, dtype=self.dtype), 'unit{:02}')
    x = nn.relu(GroupNorm(self.dtype, name='group_norm')(x))
    x = x.mean(axis=(1, 2), keepdims=True, dtype=jnp.float32)  # (B, H, W, C) -> (B, 1, 1, C)
    if self.num_classes:
      head = lambda: nn.Conv(
        self.num_classes,
        (1, 1),
        kernel_init=nn.initializers.zeros,
        bias_init=nn.initializers.constant(self.head_bias_init),
        name='conv2d',
      )
      x = Named(head, name='head')(x)
    return x[:, 0, 0]


class BiT(nn.Module):
  """Big Transfer ResNet: images (B, H, W, 3) in [-1, 1] -> logits (B, num_classes) in float32.

  Convolutions take any size; `image_size` is the one that parameters are initialised at.
  """

  resnet: ResNet
  image_size: tuple[int, int]
  num_classes: int  # 0: no head, features (B, C)
  head_bias_init: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool = False, examples: jax.Array | None = None
  ) -> jax.Array:
    """Applies the model; nothing in it differs between training and evaluation."""
    del train, examples
    return ResNetV2(self.resnet, self.num_classes, self.head_bias_init, self.dtype, name='resnet')(
      images
    )
