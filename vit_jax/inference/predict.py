"""Images in, names and probabilities of their classes out."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import functools
import itertools
import os
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import numpy as np

from vit_jax.data.class_names import readable_names
from vit_jax.data.preprocess import EvalPreprocess, make_eval_preprocess
from vit_jax.errors import InputError
from vit_jax.evaluation.losses import LOSSES, to_probabilities
from vit_jax.inference.images import Image, load_image, name_images
from vit_jax.models.pixels import to_input


class Prediction(NamedTuple):
  """A class and how probable it is."""

  label: int  # index of the class
  name: str
  probability: float


def predict(
  model: nn.Module,
  params: Any,
  images: Image | Iterable[Image],
  *,
  class_names: Sequence[str] | None = None,
  top_k: int = 5,
  batch_size: int = 32,
  preset: str = 'bit',
  resize_size: int | None = None,
  loss: str = 'softmax',
) -> list[list[Prediction]]:
  """Classifies images of any size.

      predict(model, params, ['cat.jpg', 'dog.png'])[0][0].name  # what is in cat.jpg

  Args:
    model: made by `create_model`; images are brought to its image_size.
    params: its parameters, as `load_params` returns them.
    images: one, or an iterable, such as a generator. JPEG, PNG or WebP as paths, addresses
      (https://, gs://, ...), open files or bytes, turned as their EXIF orientation says; or
      pixels: (H, W, 3) uint8 RGB arrays, and what NumPy makes one of, such as PIL images.
    class_names: of all classes, in the order of the head. None: ImageNet's if the model has 1000
      or 21,843 classes, else 'class 17'.
    top_k: how many classes to return for an image; all of them if there are fewer.
    batch_size: images the device computes at once. The last batch is padded, so that a call
      compiles the model at most once; later calls with an equal model find it compiled.
    preset: how images are brought to size, as in the evaluation of training. 'bit': both sides
      resized, as for the published fine-tuned checkpoints. 'inception': short side resized to
      resize_size (None: 8/7 of the size), centre cropped.
    loss: what the model was trained with. 'softmax': the probabilities of all classes sum to 1;
      'sigmoid': each class has its own (how ImageNet-21k and JFT were pretrained).
  Returns:
    For each image, in order, its `top_k` most probable classes, the most probable first. One
    image alone also gives a list of one.
  Raises:
    InputError: for arguments that do not fit each other, or naming the first image that cannot
      be read; `predict_each` goes on after those.
  """
  each = predict_each(
    model,
    params,
    images,
    class_names=class_names,
    top_k=top_k,
    batch_size=batch_size,
    preset=preset,
    resize_size=resize_size,
    loss=loss,
  )
  results = []
  with contextlib.closing(each):
    for result in each:
      if isinstance(result, InputError):
        raise result
      results.append(result)
  return results


def predict_each(
  model: nn.Module,
  params: Any,
  images: Image | Iterable[Image],
  *,
  class_names: Sequence[str] | None = None,
  top_k: int = 5,
  batch_size: int = 32,
  preset: str = 'bit',
  resize_size: int | None = None,
  loss: str = 'softmax',
) -> Iterator[list[Prediction] | InputError]:
  """Like `predict`, one result at a time: a stream of images takes constant memory.

  Images are read and decoded by threads, two batches ahead of the device.

  Yields:
    For each image, in order, its most probable classes, or the InputError that says why it
    cannot be read.
  """
  class_names = _check(model, class_names, top_k, batch_size, loss)
  preprocess = make_eval_preprocess(
    preset, model.image_size, resize_size=resize_size, apply_exif=True
  )
  prepare = functools.partial(_load, preprocess)
  compute = functools.partial(
    _most_probable, model, jax.device_put(params), loss=loss, top_k=min(top_k, model.num_classes)
  )
  running = None  # the batch on the device, and what will come of it
  with contextlib.closing(_map_ahead(prepare, name_images(images), 2 * batch_size)) as prepared:
    while batch := list(itertools.islice(prepared, batch_size)):
      # A few images alone are not worth the computation of a whole batch.
      rows = batch_size if running else min(batch_size, 1 << (len(batch) - 1).bit_length())
      started = batch, compute(_stack(batch, rows, model.image_size))
      if running:
        yield from _results(*running, class_names)
      running = started
    if running:
      yield from _results(*running, class_names)


@functools.partial(jax.jit, static_argnames=('model', 'loss', 'top_k'))
def _most_probable(
  model: nn.Module, params: Any, images: jax.Array, *, loss: str, top_k: int
) -> tuple[jax.Array, jax.Array]:
  """(B, H, W, 3) uint8 -> probabilities (B, top_k), descending, and their labels (B, top_k)."""
  logits = model.apply({'params': params}, to_input(images))
  return jax.lax.top_k(to_probabilities(logits, loss), top_k)


def _check(
  model: nn.Module, class_names: Sequence[str] | None, top_k: int, batch_size: int, loss: str
) -> Sequence[str]:
  """Returns the names of all classes; raises InputError for what does not fit."""
  if not model.num_classes:
    raise InputError('the model has no head (num_classes=0): there are no classes to predict')
  for name, value in (('top_k', top_k), ('batch_size', batch_size)):
    if value < 1:
      raise InputError(f'{name} must be at least 1, got {value}')
  if loss not in LOSSES:
    raise InputError(f'unknown loss {loss!r}; there are {", ".join(LOSSES)}')
  if class_names is None:
    class_names = readable_names([], model.num_classes, model.num_classes)
  if len(class_names) != model.num_classes:
    raise InputError(
      f'there are {len(class_names):,} class names, but the model has {model.num_classes:,} classes'
    )
  return class_names


def _map_ahead(function: Callable[[Any], Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
  """Yields function(item) in order, with threads at work on the next `ahead` items."""
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
  """The images of a batch as one array; zeros where there is none."""
  stacked = np.zeros((rows, *image_size, 3), np.uint8)
  for row, image in enumerate(batch):
    if not isinstance(image, InputError):
      stacked[row] = image
  return stacked


def _results(
  batch: list[np.ndarray | InputError],
  computed: tuple[jax.Array, jax.Array],
  class_names: Sequence[str],
) -> Iterator[list[Prediction] | InputError]:
  """Waits for the device, then yields a result for each image of the batch."""
  for image, probabilities, labels in zip(batch, *jax.device_get(computed)):
    if isinstance(image, InputError):
      yield image
    else:
      yield [
        Prediction(int(label), class_names[label], float(probability))
        for label, probability in zip(labels, probabilities)
      ]
