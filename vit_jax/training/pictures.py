"""Pictures of a run while it goes on: filters, position embedding, example predictions.

They lie in WORKDIR/figures/<step>/, and for TensorBoard in tensorboard/figures/.
"""

from __future__ import annotations

from collections.abc import Iterator
import pathlib
import typing
from typing import Any

import cv2
from etils import epath
from flax import linen as nn
import jax
from jax.experimental import multihost_utils
import numpy as np
import tensorboardX

from vit_jax.errors import InputError
from vit_jax.figures import draw, weights
from vit_jax.figures.examples import Predictor
from vit_jax.files import replacing
from vit_jax.parallel import hosts

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure

_LAST = 'filters'  # drawn last, and of every model: where it is, a step is done


class Drawings:
  """Draws every so many steps; all processes compute, process 0 draws."""

  def __init__(
    self,
    workdir: pathlib.Path | epath.Path,
    directory: pathlib.Path | None,
    model: nn.Module,
    predictor: Predictor | None,
    *,
    every: int,
    first_step: int,
    total_steps: int,
  ):
    """Draws nothing yet.

    Args:
      workdir: where the pictures of an earlier part of the run are.
      directory: where process 0 writes them; None in the others.
      model: made by `create_model`.
      predictor: of the examples; None: there are none.
      every: steps, and after the last one; 0: never.
      first_step: the step that the run goes on from.
      total_steps: of the run.
    """
    self._workdir, self._directory = workdir, directory
    self._model, self._predictor = model, predictor
    self._every, self._first_step, self._total_steps = every, first_step, total_steps
    self._events = None

  def run(self, step: int, params: Any) -> None:
    """Draws what is due after `step`, unless the part of the run before this one did."""
    if not self._every or not (step == self._total_steps or step % self._every == 0):
      return
    if step == self._first_step and hosts.gather(self._is_drawn(step))[0]:
      return
    examples = self._predictor(params) if self._predictor else None
    arrays = jax.tree.map(_fetch, weights.of_first_layers(params))
    if self._directory:
      for name, figure in self._figures(arrays, examples):
        self._write(step, name, draw.png(figure))

  def _is_drawn(self, step):
    return (self._workdir / 'figures' / str(step) / f'{_LAST}.png').exists()

  def _figures(self, arrays, examples) -> Iterator[tuple[str, Figure]]:
    if examples:
      yield 'predictions', draw.draw_predictions(examples, self._predictor.names)
    try:
      embedding = weights.position_embedding(self._model, arrays)
    except InputError:  # the model has none
      pass
    else:
      yield (
        'position_similarity',
        draw.draw_position_similarity(weights.position_similarity(embedding)),
      )
    yield (
      _LAST,
      draw.draw_filters(
        weights.principal_filters(weights.rgb_kernel(arrays)),
        weights.name_of_first_layer(self._model),
      ),
    )

  def _write(self, step: int, name: str, png: bytes) -> None:
    if self._events is None:  # drops what a killed part of the run drew of the steps from here on
      self._events = tensorboardX.SummaryWriter(
        str(self._directory / 'tensorboard' / 'figures'), purge_step=step
      )
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    self._events.add_image(f'figures/{name}', pixels, step, dataformats='HWC')
    self._events.flush()
    with replacing(self._directory / 'figures' / str(step) / f'{name}.png') as path:
      path.write_bytes(png)

  def close(self) -> None:
    if self._events:
      self._events.close()


def _fetch(x: jax.Array) -> np.ndarray:
  """The whole of an array, of which each process may have a part; all must call it."""
  if x.is_fully_addressable:
    return np.asarray(x)
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))
