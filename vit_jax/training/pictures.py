"""Draw figures during a training run: filters, position embedding and example predictions.

They are written to WORKDIR/figures/<step>/, and for TensorBoard to WORKDIR/tensorboard/figures/.
"""

from __future__ import annotations

from collections.abc import Iterator
import pathlib
import typing

import cv2
from flax import linen as nn
import jax
from jax.experimental import multihost_utils
import numpy as np

from vit_jax.errors import InputError
from vit_jax.figures import draw, weights
from vit_jax.figures.examples import Examples, Predictor
from vit_jax.files import AnyPath, replacing
from vit_jax.models.params import Params
from vit_jax.parallel import hosts

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure

_LAST = 'filters'  # drawn last and for every model, so its file shows that a step is complete


class Pictures:
  """Draws figures every few steps. All processes compute, and process 0 draws."""

  def __init__(
    self,
    workdir: AnyPath,
    directory: pathlib.Path | None,
    model: nn.Module,
    predictor: Predictor | None,
    *,
    every: int,
    first_step: int,
    total_steps: int,
  ):
    """Set up the drawing. Nothing is drawn yet.

    Args:
      workdir: directory in which earlier parts of the run left their figures.
      directory: directory that process 0 writes to. None in the other processes.
      model: a model from `create_model`.
      predictor: predicts the example images. None if there are none.
      every: draw after every this many steps and after the last one. 0 means never.
      first_step: the step that the run resumes from.
      total_steps: number of steps of the run.
    """
    self._workdir, self._directory = workdir, directory
    self._model, self._predictor = model, predictor
    self._every, self._first_step, self._total_steps = every, first_step, total_steps
    self._events = None

  def run(self, step: int, params: Params) -> None:
    """Draw the figures that are due after `step`, unless an earlier part of the run has done so."""
    if not self._every or not (step == self._total_steps or step % self._every == 0):
      return
    if step == self._first_step and hosts.gather(self._is_drawn(step))[0]:
      return
    examples = self._predictor(params) if self._predictor else None
    arrays = jax.tree.map(_fetch, weights.select_first_layers(params))
    if self._directory:
      for name, figure in self._figures(arrays, examples):
        self._write(self._directory, step, name, draw.png(figure))

  def _is_drawn(self, step: int) -> bool:
    return (self._workdir / 'figures' / str(step) / f'{_LAST}.png').exists()

  def _figures(self, params: Params, examples: Examples | None) -> Iterator[tuple[str, Figure]]:
    if examples and self._predictor:
      yield 'predictions', draw.draw_predictions(examples, self._predictor.names)
    try:
      similarity = weights.position_similarity(weights.position_embedding(self._model, params))
      yield 'position_similarity', draw.draw_position_similarity(similarity)
    except InputError:  # the model has no position embedding
      pass
    filters = weights.principal_filters(weights.rgb_kernel(params))
    yield _LAST, draw.draw_filters(filters, weights.name_of_first_layer(self._model))

  def _write(self, directory: pathlib.Path, step: int, name: str, png: bytes) -> None:
    if self._events is None:
      import tensorboardX

      # purge_step drops the pictures that a killed part of the run drew from this step on.
      path = str(directory / 'tensorboard' / 'figures')
      self._events = tensorboardX.SummaryWriter(path, purge_step=step)
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    self._events.add_image(f'figures/{name}', pixels, step, dataformats='HWC')
    self._events.flush()
    with replacing(directory / 'figures' / str(step) / f'{name}.png') as path:
      path.write_bytes(png)

  def close(self) -> None:
    """Close the TensorBoard writer."""
    if self._events:
      self._events.close()


def _fetch(x: jax.Array) -> np.ndarray:
  """Return a whole array, of which each process may hold a part. All processes must call this."""
  if x.is_fully_addressable or x.is_fully_replicated:
    return np.asarray(x)
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))
