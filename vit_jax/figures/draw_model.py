"""Draw all figures of a model: filters, position embedding, attention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import dataclasses
import itertools
import typing

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError
from vit_jax.figures import attention, draw, weights
from vit_jax.figures.attention import Views
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.models.vit import VisionTransformer

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure

_ATTENTION_FIGURES = 'attention distance, rollout and maps'


@dataclasses.dataclass(frozen=True)
class FigureOptions:
  """Options of the figures that show attention.

  Attributes:
    num_images: the attention distance is the mean over the first num_images images.
    num_shown: number of images whose rollout is drawn. The maps belong to the first image.
    layer: attention layer whose maps are drawn. 0 is the first, and -1 the last, which is that of a
      MAP head if there is one.
    heads: how rollout combines heads, 'mean' or 'max'.
    batch_size: number of images to compute at once.
  """

  num_images: int = 128
  num_shown: int = 4
  layer: int = -1
  heads: str = 'mean'
  batch_size: int = 8


def draw_model(
  model: nn.Module,
  params: Params,
  images: Iterable[np.ndarray],
  options: FigureOptions | None = None,
) -> Iterator[tuple[str, Figure | InputError]]:
  """Draw every figure that applies to a model, one at a time.

  Args:
    model: a model from `create_model`.
    params: parameters of the model.
    images: (H, W, 3) uint8 each, of the size that the model takes.
    options: options of the figures that show attention.

  Yields:
    (name, figure), or (name, error) where the error says why the model has no such figure.

  Raises:
    InputError: the model has no layer `options.layer`.
  """
  options = options or FigureOptions()
  filters = weights.principal_filters(weights.rgb_kernel(params))
  yield 'filters', draw.draw_filters(filters, weights.name_of_first_layer(model))
  try:
    similarity = weights.position_similarity(weights.position_embedding(model, params))
    yield 'position_similarity', draw.draw_position_similarity(similarity)
  except InputError as e:
    yield 'position similarity', e
  try:
    vit = attention.check_has_attention(model)
  except InputError as e:
    yield _ATTENTION_FIGURES, e
    return
  images = iter(images)
  first = next(images, None)
  if first is None:
    yield _ATTENTION_FIGURES, InputError('There are no images to look at.')
    return
  yield from _draw_attention(vit, params, itertools.chain([first], images), options)


def _draw_attention(
  model: VisionTransformer, params: Params, images: Iterable[np.ndarray], options: FigureOptions
) -> Iterator[tuple[str, Figure]]:
  names = attention_layer_names(model)
  if not -len(names) <= options.layer < len(names):
    raise InputError(
      f'There is no attention layer {options.layer}. The model has layers 0 to {len(names) - 1}.'
    )
  shown, views = look_in_batches(model, params, images, options)
  (height, width), (h, w) = model.image_size, model.grid
  distance = draw.draw_attention_distance(
    np.asarray(views.distance).mean(1),
    attention.uniform_distance((h, w), (height / h, width / w)),
    model.image_size,
    num_images=views.distance.shape[1],
    axial=model.attention == 'axial',
  )
  yield 'attention_distance', distance
  yield 'rollout', draw.draw_rollout(shown, views.rollout, options.heads)
  maps = views.maps[options.layer, 0]
  yield 'attention_maps', draw.draw_attention_maps(shown[0], maps, names[options.layer])


def attention_layer_names(model: VisionTransformer) -> list[str]:
  """Return the names of the attention layers, with the output token whose weights are drawn."""
  axes = [', along rows', ', along columns'] if model.attention == 'axial' else ['']
  output = 'from the class token' if model.head == 'token' else 'mean over all patches'
  names = [f'block {i}{axis}, {output}' for i in range(model.variant.num_layers) for axis in axes]
  return names + ['the MAP head'] * (model.head == 'map')


def look_in_batches(
  model: nn.Module, params: Params, images: Iterable[np.ndarray], options: FigureOptions
) -> tuple[np.ndarray, Views]:
  """Look at images batch by batch.

  Returns:
    The first images, (num_shown, H, W, 3) uint8, and their views, in which `distance` covers the
    first num_images images instead.
  """
  size, start, shown, views = 0, 0, [], []
  params = jax.device_put(params)
  images = iter(images)
  while batch := list(itertools.islice(images, options.batch_size)):
    size = size or len(batch)  # the last batch is padded, so that only one shape is compiled
    padded = np.zeros((size, *batch[0].shape), np.uint8)
    padded[: len(batch)] = batch
    view = attention.look(model, params, to_input(jnp.asarray(padded)), heads=options.heads)
    keep = max(0, min(len(batch), options.num_shown - start))
    shown += batch[:keep]
    views.append(
      Views(
        distance=np.asarray(view.distance)[:, : len(batch)],
        rollout=np.asarray(view.rollout)[:keep],
        maps=np.asarray(view.maps)[:, :keep],
      )
    )
    start += len(batch)
  distance, rollout, maps = zip(*views)
  distance = np.concatenate(distance, 1)[:, : options.num_images]
  return np.stack(shown), Views(distance, np.concatenate(rollout), np.concatenate(maps, 1))
