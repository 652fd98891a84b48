"""Predict the classes of images, with names and probabilities."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import functools
import itertools
import os
from typing import NamedTuple, TypeVar

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.batch import check_batch_fits
from vit_jax.data.class_names import readable_names
from vit_jax.data.preprocess import EvalPreprocess, make_eval_preprocess
from vit_jax.errors import InputError, unknown
from vit_jax.evaluation.losses import LOSSES, to_probabilities
from vit_jax.inference.images import Image, load_image, name_images
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.models.usage import CompleteUsage, usage_of
from vit_jax.parallel.compiler import jit

Item = TypeVar('Item')
Result = TypeVar('Result')


class Prediction(NamedTuple):
  """A class and its probability."""

  label: int  # index of the class
  name: str
  probability: float


@dataclasses.dataclass(frozen=True)
class PredictOptions:
  """The keyword arguments of `predict`. Its docstring describes them."""

  class_names: Sequence[str] | None = None
  top_k: int = 5
  batch_size: int = 32
  preset: str | None = None
  resize_size: int | None = None
  loss: str | None = None
  eval_filter: str | None = None
  fast_dct: bool | None = None


def predict(
  model: nn.Module,
  params: Params,
  images: Image | Iterable[Image],
  *,
  class_names: Sequence[str] | None = None,
  top_k: int = 5,
  batch_size: int = 32,
  preset: str | None = None,
  resize_size: int | None = None,
  loss: str | None = None,
  eval_filter: str | None = None,
  fast_dct: bool | None = None,
) -> list[list[Prediction]]:
  """Classify images of any size.

      model, params, _ = load_model('runs/mine')
      predict(model, params, ['cat.jpg', 'dog.png'])[0][0].name  # the class of cat.jpg

  A model from `load_model` knows how its checkpoint is to be used (`model.usage`). Arguments that
  are given here win over that.

  Args:
    model: a model from `create_model`. Images are resized to its image_size.
    params: its parameters, as `load_params` returns them.
    images: one image, or an iterable of images, which may be a generator. An image is a file that
      Pillow can read, given as a path, an address (https://, gs://, ...), bytes or an open file,
      which is read from its start; or it is an image of Pillow. It is converted to RGB, and
      rotated as its EXIF orientation says. An image can also be an array of pixels, (H, W, 3)
      uint8 RGB, or an object that NumPy converts to one.
    class_names: names of all classes, in the order of the head. Defaults to those of the
      checkpoint, to ImageNet's names if the model has 1000 or 21,843 classes, and otherwise to
      'class 0', 'class 1', ...
    top_k: number of classes to return for each image. If the model has fewer, all are returned.
    batch_size: number of images that the device computes at once. The last batch is padded, so that
      a call compiles the model at most once. Later calls with an equal model do not compile.
    preset: the preprocessing of evaluation. 'bit' resizes both sides, as for the published
      fine-tuned checkpoints. 'inception' resizes the short side to resize_size and crops the
      center. 'squash' resizes both sides to resize_size and crops the center. Defaults to that of
      the checkpoint, or 'bit'.
    resize_size: not for 'bit', in pixels. Defaults to that of the checkpoint, or 8/7 of the image
      size.
    loss: the loss that the model was trained with. For 'softmax', the probabilities of all classes
      sum to 1. For 'sigmoid', each class has its own probability, as in the pretraining on
      ImageNet-21k and JFT. Defaults to that of the checkpoint, or 'softmax'.
    eval_filter: 'bilinear', 'area', 'bicubic' or 'bilinear_antialias'. Defaults to that of the
      checkpoint, or of the published code: 'area' for 'inception', and 'bilinear' for the others.
    fast_dct: decode JPEGs with the fast, less accurate DCT, as TensorFlow does by default. Defaults
      to what the checkpoint says, or False.

  Returns:
    For each image, in order, its `top_k` most probable classes, the most probable first. A single
    image gives a list with one element.

  Raises:
    InputError: the arguments do not fit each other, or an image cannot be read. `predict_each`
      goes on after an image that cannot be read.
  """
  options = PredictOptions(
    class_names, top_k, batch_size, preset, resize_size, loss, eval_filter, fast_dct
  )
  results = []
  with contextlib.closing(predict_each(model, params, images, options)) as each:
    for result in each:
      if isinstance(result, InputError):
        raise result
      results.append(result)
  return results


def predict_each(
  model: nn.Module,
  params: Params,
  images: Image | Iterable[Image],
  options: PredictOptions = PredictOptions(),
) -> Generator[list[Prediction] | InputError]:
  """Classify a stream of images in constant memory: like `predict`, one result at a time.

  Threads read and decode images two batches ahead of the device.

  Yields:
    For each image, in order, its most probable classes, or the InputError that says why it cannot
    be read.
  """
  usage = usage_of(model).updated(
    preset=options.preset,
    resize_size=options.resize_size,
    eval_filter=options.eval_filter,
    fast_dct=options.fast_dct,
    loss=options.loss,
  )
  names = _check(model, options, usage)
  preprocess = make_eval_preprocess(
    usage.preset,
    model.image_size,
    resize_size=usage.resize_size,
    eval_filter=usage.eval_filter,
    apply_exif=True,
    fast_dct=usage.fast_dct,
  )
  compute = functools.partial(
    _top_classes,
    model,
    jax.device_put(params),
    loss=usage.loss,
    top_k=min(options.top_k, model.num_classes),
  )
  batch_size = options.batch_size
  load = functools.partial(_load, preprocess)
  pending = None  # a batch and its results, which the device may still be computing
  with contextlib.closing(_map_ahead(load, name_images(images), 2 * batch_size)) as loaded:
    while batch := list(itertools.islice(loaded, batch_size)):
      # A call with a few images pads them to a power of two instead of a whole batch.
      rows = batch_size if pending else min(batch_size, 1 << (len(batch) - 1).bit_length())
      started = batch, compute(jnp.asarray(_stack(batch, rows, model.image_size)))
      if pending:
        yield from _results(*pending, names)
      pending = started
    if pending:
      yield from _results(*pending, names)


@functools.partial(jit, static_argnames=('model', 'loss', 'top_k'))
def _top_classes(
  model: nn.Module, params: Params, images: jax.Array, *, loss: str, top_k: int
) -> tuple[jax.Array, jax.Array]:
  """Return the highest probabilities and their classes, (B, top_k) each, for (B, H, W, 3) uint8."""
  logits = jnp.asarray(model.apply({'params': params}, to_input(images)))
  return jax.lax.top_k(to_probabilities(logits, loss), top_k)


def _check(model: nn.Module, options: PredictOptions, usage: CompleteUsage) -> Sequence[str]:
  """Return the names of all classes, or raise InputError if the options do not fit the model."""
  check_classes(model, options.class_names, usage.loss)
  for name, value in (('top_k', options.top_k), ('batch_size', options.batch_size)):
    if value < 1:
      raise InputError(f'{name} must be at least 1, but it is {value}.')
  check_batch_fits(options.batch_size, (*model.image_size, 3))
  if options.class_names is not None:
    return options.class_names
  known = usage.class_names or ()
  if len(known) > model.num_classes:
    known = ()
  return readable_names(known, len(known) or model.num_classes, model.num_classes)


def check_classes(model: nn.Module, class_names: Sequence[str] | None, loss: str) -> None:
  """Raise InputError if the model predicts no classes, or if names or loss do not fit it."""
  if not model.num_classes:
    raise InputError('The model predicts no classes: it has no head (num_classes=0).')
  if class_names is not None and len(class_names) != model.num_classes:
    raise InputError(
      f'There are {len(class_names):,} class names, but the model has {model.num_classes:,} '
      'classes.'
    )
  if loss not in LOSSES:
    raise unknown('loss', loss, LOSSES)


def _map_ahead(
  function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Generator[Result]:
  """Yield function(item) in order, while threads work on the next `ahead` items."""
  pool = ThreadPoolExecutor(os.cpu_count())
  try:
    waiting = deque()
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > ahead:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


def _load(preprocess: EvalPreprocess, named_image: tuple[str, Image]) -> np.ndarray | InputError:
  """Return an image of the model's size, or the error if it cannot be read."""
  try:
    return load_image(*named_image, preprocess)
  except InputError as e:
    return e


def _stack(
  batch: list[np.ndarray | InputError], rows: int, image_size: tuple[int, int]
) -> np.ndarray:
  """Return the images of a batch as one array. Rows without an image are zeros."""
  stacked = np.zeros((rows, *image_size, 3), np.uint8)
  for row, image in enumerate(batch):
    if not isinstance(image, InputError):
      stacked[row] = image
  return stacked


def _results(
  batch: list[np.ndarray | InputError],
  top_classes: tuple[jax.Array, jax.Array],
  names: Sequence[str],
) -> Iterator[list[Prediction] | InputError]:
  """Wait for the device, then yield the predictions or the error of each image of the batch."""
  for image, probabilities, labels in zip(batch, *jax.device_get(top_classes)):
    if isinstance(image, InputError):
      yield image
    else:
      yield [
        Prediction(int(label), names[int(label)], float(probability))
        for label, probability in zip(labels, probabilities)
      ]
