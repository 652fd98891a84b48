"""Masked patch prediction, the paper's self-supervision (section 4.6, appendix B.1.2).

Half of the patch embeddings are corrupted, and the model predicts the pixels or colors of these
patches. It does not need the labels of the images.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any, cast

from flax import linen as nn
import jax
import jax.numpy as jnp

from vit_jax.errors import InputError, unknown
from vit_jax.models.initializers import normal
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.models.vit import VisionTransformer

TARGETS = ('mean_color', 'small_patch', 'patch')
ADDED = ('mask_token', 'patch_head')  # parameters that a VisionTransformer does not have
_COLORS = 512  # 3 bits each of red, green and blue
# Shares of the corrupted patches that become [mask] and another patch. The others stay.
_MASKED, _OTHER = 0.8, 0.1


def corruption(keys: jax.Array, num_patches: int, rate: float) -> tuple[jax.Array, jax.Array]:
  """Draw which patches are corrupted, and how.

  Args:
    keys: one key per image, (B,).
    num_patches: number of patches in an image, N.
    rate: share of the patches of each image that is corrupted. The number of patches is rounded.

  Returns:
    corrupted: (B, N) bool.
    source: (B, N) int32, the index of the patch whose embedding replaces this one. It is -1 for the
      [mask] embedding, and the patch's own index when it is not replaced.
  """

  def corrupt_image(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    which_key, how_key, other_key = jax.random.split(key, 3)
    index = jnp.arange(num_patches)
    corrupted = jax.random.permutation(which_key, index) < round(rate * num_patches)
    draw = jax.random.uniform(how_key, (num_patches,))
    offset = jax.random.randint(other_key, (num_patches,), 1, max(2, num_patches))
    other = (index + offset) % num_patches
    source = jnp.where(draw < _MASKED, -1, jnp.where(draw < _MASKED + _OTHER, other, index))
    return corrupted, jnp.where(corrupted, source, index)

  return jax.vmap(corrupt_image)(keys)


def make_targets(images: jax.Array, stride: int, target: str) -> jax.Array:
  """Compute the targets of the prediction for each patch.

  Args:
    images: (B, H, W, 3) uint8.
    stride: side of a patch in pixels.
    target: 'mean_color' is the mean color in 3 bits per channel. 'small_patch' cuts the patch into
      4 x 4 cells and has the mean color of each. 'patch' has the pixels themselves.

  Returns:
    (B, N, 1) or (B, N, 16) int32 colors in [0, 512), or (B, N, 3 * stride**2) float32 pixels in
    [-1, 1].
  """
  b, h, w, _ = images.shape
  cells = {'mean_color': 1, 'small_patch': 4, 'patch': stride}[target]
  side = stride // cells
  x = images.astype(jnp.float32)
  x = x.reshape(b, h // stride, cells, side, w // stride, cells, side, 3).mean((3, 6))
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, cells**2, 3)  # (B, N, cells**2, 3)
  return to_input(x).reshape(*x.shape[:2], -1) if target == 'patch' else _quantize(x)


def _quantize(x: jax.Array) -> jax.Array:
  """Keep the upper 3 bits of each channel: (..., 3) in [0, 255] -> (...) int32 in [0, 512)."""
  bits = jnp.clip(x / 32, 0, 7).astype(jnp.int32)
  return (bits[..., 0] * 8 + bits[..., 1]) * 8 + bits[..., 2]


class MaskedPatchTransformer(VisionTransformer):
  """A VisionTransformer that predicts the targets of corrupted patches.

  Its parameters are those of a VisionTransformer without a head, and those named in ADDED.
  """

  target: str = 'mean_color'  # one of TARGETS
  rate: float = 0.5  # share of the patches that is corrupted

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    source: jax.Array | None = None,
    train: bool = False,
    examples: jax.Array | None = None,
  ) -> jax.Array:
    """Apply the model.

    Args:
      images: (B, H, W, 3) in [-1, 1].
      source: (B, N) from `corruption`. None replaces nothing.
      train: turns dropout and stochastic depth on, as in a VisionTransformer.
      examples: (B,) the index of each image in the global batch, as in a VisionTransformer.

    Returns:
      (B, N, 1 or 16, 512) logits of colors, or (B, N, 3 * stride**2) pixels, in float32.
    """
    x = self.embed(images)  # (B, N, D)
    mask = self.param('mask_token', normal(0.02), (x.shape[-1],))
    if source is not None:
      replaced = jnp.take_along_axis(x, jnp.maximum(source, 0)[..., None], axis=1)
      x = jnp.where(source[..., None] < 0, mask.astype(x.dtype), replaced)
    num_patches, first = x.shape[1], int(self.head == 'token')
    x = self.encode(x, self.dropout_keys(len(images), train, examples))
    x = x[:, first : first + num_patches].astype(jnp.float32)  # (B, L, D) -> (B, N, D)
    cells = {'mean_color': 1, 'small_patch': 16, 'patch': 0}[self.target]
    size = cells * _COLORS or 3 * self.stride**2
    x = nn.Dense(size, kernel_init=nn.initializers.zeros, name='patch_head')(x)
    return x.reshape(*x.shape[:2], cells, _COLORS) if cells else x


def make_model(model: nn.Module, target: str, rate: float) -> MaskedPatchTransformer:
  """Return the model to train in place of `model`.

  Raises:
    InputError: `model` is not a VisionTransformer, or does not fit the target or rate.
  """
  if not isinstance(model, VisionTransformer):
    raise InputError(
      'Masked patch prediction needs a model with patches, but this one is a ResNet. Choose a ViT.'
    )
  if model.head == 'map':
    raise InputError(
      "Masked patch prediction does not train the pooling of head='map', which fine-tuning would "
      "start from. Use head='token' or 'gap'."
    )
  if target not in TARGETS:
    raise unknown('target of masked patches', target, TARGETS)
  if target == 'small_patch' and model.stride % 4:
    raise InputError(
      f"The target 'small_patch' cuts patches into 4 x 4 cells, but their side of {model.stride} "
      "pixels is not a multiple of 4. Use 'mean_color' or 'patch'."
    )
  num_patches = math.prod(model.grid)
  if not 1 <= round(rate * num_patches) <= num_patches:
    raise InputError(
      f'A rate of {rate} corrupts {round(rate * num_patches)} of {num_patches} patches. '
      f'Use a rate between {1 / num_patches:.2g} and 1.'
    )
  fields: dict[str, Any] = {
    f.name: getattr(model, f.name)
    for f in dataclasses.fields(VisionTransformer)
    if f.init and f.name not in ('parent', 'name')
  }
  fields['representation_size'] = None
  return MaskedPatchTransformer(**fields, target=target, rate=rate)


def make_objective(
  model: MaskedPatchTransformer, key: jax.Array
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Return the objective of a train step, (params, batch, key of the step) -> (losses, scores).

  The loss of an image is the mean over its corrupted patches of the cross-entropy of their colors,
  or of the squared error of their pixels. The score of an image is the share of corrupted patches
  whose color is right.

  Args:
    model: the model to train.
    key: used when the step has no key of its own, as in evaluation. Together with the pixels of an
      image, it decides which patches are corrupted.
  """
  num_patches = math.prod(model.grid)

  def objective(
    params: Params, batch: Mapping[str, Any], step_key: jax.Array | None, partner: object = None
  ) -> tuple[jax.Array, jax.Array]:
    del partner  # masked patches are not mixed
    images = batch['image']
    options: dict[str, Any] = {}
    if step_key is None:
      image_key, numbers = key, jnp.sum(images, axis=(1, 2, 3), dtype=jnp.uint32)
    else:
      image_key, numbers = jax.random.fold_in(step_key, 0), batch['example']
      options = dict(train=True, examples=batch['example'], rngs={'dropout': step_key})
    keys = jax.vmap(jax.random.fold_in, (None, 0))(image_key, numbers)
    corrupted, source = corruption(keys, num_patches, model.rate)
    output = model.apply({'params': params}, to_input(images), source=source, **options)
    targets = make_targets(images, model.stride, model.target)
    losses, correct = compare(cast(jax.Array, output), targets, model.target)  # (B, N) each
    mean = lambda x: jnp.sum(x * corrupted, 1) / jnp.sum(corrupted, 1)
    return mean(losses), mean(correct)

  return objective


def compare(predictions: jax.Array, targets: jax.Array, target: str) -> tuple[jax.Array, jax.Array]:
  """Compare predictions with the targets of `make_targets`.

  Returns:
    losses: (B, N).
    correct: (B, N) in [0, 1], the share of a patch's colors that are right. With target='patch', a
      patch has one color, the mean of its pixels.
  """
  if target == 'patch':
    to_color = lambda x: _quantize((x.reshape(*x.shape[:2], -1, 3).mean(2) + 1) * 127.5)
    losses = jnp.mean(jnp.square(predictions - targets), -1)
    return losses, (to_color(predictions) == to_color(targets)).astype(jnp.float32)
  log_probability = jnp.take_along_axis(jax.nn.log_softmax(predictions), targets[..., None], -1)
  correct = predictions.argmax(-1) == targets
  return -log_probability[..., 0].mean(-1), correct.astype(jnp.float32).mean(-1)
