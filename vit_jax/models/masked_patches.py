"""Masked patch prediction, the paper's self-supervision (section 4.6, appendix B.1.2).

Half of the patch embeddings are corrupted, and for these the model predicts what their patches look
like. The labels of the images are not used.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from vit_jax.errors import InputError
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.models.vit import VisionTransformer

TARGETS = ('mean_color', 'small_patch', 'patch')
ADDED = ('mask_token', 'patch_head')  # what the model has beyond a VisionTransformer's parameters
_COLORS = 512  # 3 bits each of red, green and blue
_MASKED, _OTHER = 0.8, 0.1  # of the corrupted ones: replaced by [mask], by another; the rest stay


def corruption(keys: jax.Array, num_patches: int, rate: float) -> tuple[jax.Array, jax.Array]:
  """Draws which patches are corrupted, and how.

  Args:
    keys: (B,) one for each image.
    num_patches: N.
    rate: share of the patches; so many of each image, rounded.
  Returns:
    (B, N) bool, whether a patch is corrupted; (B, N) int32, the patch the embedding of which
    takes its place: -1 for the [mask] embedding, itself where it is not replaced.
  """

  def of_image(key):
    which, how, other = jax.random.split(key, 3)
    place = jnp.arange(num_patches)
    corrupted = jax.random.permutation(which, place) < round(rate * num_patches)
    draw = jax.random.uniform(how, (num_patches,))
    another = place + jax.random.randint(other, (num_patches,), 1, max(2, num_patches))
    source = jnp.where(
      draw < _MASKED, -1, jnp.where(draw < _MASKED + _OTHER, another % num_patches, place)
    )
    return corrupted, jnp.where(corrupted, source, place)

  return jax.vmap(of_image)(keys)


def make_targets(images: jax.Array, stride: int, target: str) -> jax.Array:
  """What is to be predicted of each patch.

  Args:
    images: (B, H, W, 3) uint8.
    stride: side of a patch in pixels.
    target: 'mean_color': the mean, in 3 bits a channel; 'small_patch': the same of each cell of
      the patch cut into 4 x 4; 'patch': its pixels.
  Returns:
    (B, N, 1) or (B, N, 16) int32 in [0, 512); (B, N, 3 * stride**2) float32 in [-1, 1].
  """
  b, h, w, _ = images.shape
  cells = {'mean_color': 1, 'small_patch': 4, 'patch': stride}[target]
  side = stride // cells
  x = (
    images.astype(jnp.float32)
    .reshape(b, h // stride, cells, side, w // stride, cells, side, 3)
    .mean((3, 6))
  )
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, cells**2, 3)  # (B, N, cells, 3)
  return to_input(x).reshape(*x.shape[:2], -1) if target == 'patch' else _color(x)


def _color(x: jax.Array) -> jax.Array:
  """(..., 3) in [0, 255] -> (...) int32 in [0, 512): the first 3 bits of each channel."""
  bits = jnp.clip(x / 32, 0, 7).astype(jnp.int32)
  return (bits[..., 0] * 8 + bits[..., 1]) * 8 + bits[..., 2]


class MaskedPatchTransformer(VisionTransformer):
  """A VisionTransformer that predicts its patches: `make_targets` of those that are corrupted.

  Its parameters are a VisionTransformer's without the head, and those named in ADDED.
  """

  target: str = 'mean_color'
  rate: float = 0.5

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    source: jax.Array | None = None,
    train: bool = False,
    examples: jax.Array | None = None,
  ) -> jax.Array:
    """Applies the model.

    Args:
      images: (B, H, W, 3) in [-1, 1].
      source: (B, N), of `corruption`; None: nothing is replaced.
      train, examples: as a VisionTransformer's.
    Returns:
      (B, N, 1 or 16, 512) logits of colours, or (B, N, 3 * stride**2) pixels, float32.
    """
    x = self._embed(images)  # (B, N, D)
    mask = self.param('mask_token', nn.initializers.normal(0.02), (x.shape[-1],))
    if source is not None:
      taken = jnp.take_along_axis(x, jnp.maximum(source, 0)[..., None], axis=1)
      x = jnp.where(source[..., None] < 0, mask.astype(x.dtype), taken)
    num_patches = x.shape[1]
    first = int(self.head == 'token')
    x = self._encode(x, self._dropout_keys(len(images), train, examples))
    x = x[:, first : first + num_patches].astype(jnp.float32)
    cells = {'mean_color': 1, 'small_patch': 16, 'patch': 0}[self.target]
    size = cells * _COLORS or 3 * self.stride**2
    x = nn.Dense(size, kernel_init=nn.initializers.zeros, name='patch_head')(x)
    return x.reshape(*x.shape[:2], cells, _COLORS) if cells else x


def make_model(model: VisionTransformer, target: str, rate: float) -> MaskedPatchTransformer:
  """The model that is trained in place of `model`.

  Raises:
    InputError: `model` is no VisionTransformer, or target and rate do not fit.
  """
  if not isinstance(model, VisionTransformer):
    raise InputError('masked patch prediction is for models with patches; this one is a ResNet')
  if model.head == 'map':
    raise InputError(
      "masked patch prediction trains no head='map', which fine-tuning would start "
      "from; take head='token' or 'gap'"
    )
  if target not in TARGETS:
    raise InputError(f'unknown target {target!r} of masked patches; there are {", ".join(TARGETS)}')
  if target == 'small_patch' and model.stride % 4:
    raise InputError(
      f'target small_patch cuts patches into 4 x 4 cells, which a side of '
      f'{model.stride} pixels does not allow; take mean_color or patch'
    )
  if not 1 <= round(rate * math.prod(model.grid)) <= math.prod(model.grid):
    raise InputError(f'rate {rate} corrupts none or too many of {math.prod(model.grid)} patches')
  fields = {
    f.name: getattr(model, f.name)
    for f in dataclasses.fields(VisionTransformer)
    if f.init and f.name not in ('parent', 'name')
  }
  fields['representation_size'] = None
  return MaskedPatchTransformer(**fields, target=target, rate=rate)


def make_objective(model: MaskedPatchTransformer, key: jax.Array):
  """The objective of `make_train_step`: a step.Objective.

  The loss is the mean over an image's corrupted patches of the cross-entropy of its colours, or of
  the squared error of its pixels; right is the share of them whose colours are. Without a key, as
  for evaluation, what is corrupted follows from the image alone.
  """
  num_patches = math.prod(model.grid)

  def objective(
    params: Params, batch: Mapping[str, Any], step_key: jax.Array | None, partner: object = None
  ) -> tuple[jax.Array, jax.Array]:
    del partner  # masked patches are not mixed
    images = batch['image']
    if step_key is None:
      numbers = jnp.sum(images, axis=(1, 2, 3), dtype=jnp.uint32)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    else:
      keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.fold_in(step_key, 0), batch['example']
      )
    corrupted, source = corruption(keys, num_patches, model.rate)
    options = (
      {}
      if step_key is None
      else dict(train=True, examples=batch['example'], rngs={'dropout': step_key})
    )
    predictions = model.apply({'params': params}, to_input(images), source=source, **options)
    targets = make_targets(images, model.stride, model.target)
    losses, correct = compare(predictions, targets, model.target)  # (B, N) each
    mean = lambda x: jnp.sum(x * corrupted, 1) / jnp.sum(corrupted, 1)
    return mean(losses), mean(correct)

  return objective


def compare(predictions: jax.Array, targets: jax.Array, target: str) -> tuple[jax.Array, jax.Array]:
  """The loss of each patch and how far its colours are right: (B, N), (B, N) in [0, 1].

  For 'patch', right is a patch whose mean has the right 3 bits in each channel.
  """
  if target == 'patch':
    mean = lambda x: _color((x.reshape(*x.shape[:2], -1, 3).mean(2) + 1) * 127.5)
    return (
      jnp.mean(jnp.square(predictions - targets), -1),
      (mean(predictions) == mean(targets)).astype(jnp.float32),
    )
  log_probability = jnp.take_along_axis(jax.nn.log_softmax(predictions), targets[..., None], -1)
  right = predictions.argmax(-1) == targets
  return -log_probability[..., 0].mean(-1), right.astype(jnp.float32).mean(-1)
