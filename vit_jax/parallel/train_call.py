"""Compile a train step, in a thread while the run starts, or at its first call."""

from collections.abc import Callable
from concurrent.futures import Future
import contextlib
import logging
import threading
import time
from typing import Any

import jax
from jax.sharding import Mesh, Sharding

from vit_jax.data.batch import Batch

log = logging.getLogger('vit_jax')

State = Any  # a training.step.TrainState, or its shapes


class TrainCall:
  """A train step as a function (state, this host's rows of a batch) -> (state, metrics).

  It is compiled once: in a thread if `compile_ahead` was called, or else at the first call.
  """

  def __init__(
    self,
    jit: Callable[[State], Any],
    shardings: Callable[[State], Any],
    rows: Sharding,
    place: Callable[[Batch], Batch],
    mesh: Mesh | None = None,
  ):
    """Remember what to compile.

    Args:
      jit: returns jax.jit of (state, global batch) -> (state, metrics), for a state or its shapes.
      shardings: returns the sharding of each array of a state.
      rows: the sharding of each array of a global batch.
      place: makes a global batch, with that sharding, from this host's rows of it.
      mesh: the mesh that the step sees while it is traced.
    """
    self._jit, self._shardings, self._rows, self._place = jit, shardings, rows, place
    self._context = contextlib.nullcontext if mesh is None else lambda: jax.set_mesh(mesh)
    self._ahead: Future[Any] | None = None
    self._step: Any = None

  def compile_ahead(self, state: State, batch: Batch) -> None:
    """Start to compile in a thread. An error of the compiler is raised by the first call.

    Args:
      state: the shapes of a state.
      batch: the shapes of a global batch.
    """
    shape = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    state = jax.tree.map(shape, state, self._shardings(state))
    batch = jax.tree.map(lambda x: shape(x, self._rows), batch)
    self._ahead = Future()
    # Not a daemon: a program must not end, and take JAX down, while the compiler runs.
    threading.Thread(target=self._compile, args=(self._ahead, state, batch), name='compile').start()

  def _compile(self, future: Future[Any], state: State, batch: Batch) -> None:
    start = time.perf_counter()
    try:
      with self._context():
        step = self._jit(state).lower(state, batch).compile()
      seconds = time.perf_counter() - start
      log.info('The train step took %.0fs to compile, while the run started.', seconds)
      future.set_result(step)
    except BaseException as e:  # every error must reach the caller
      future.set_exception(e)

  def __call__(self, state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
    """Do a step. The state is donated."""
    if self._step is None:
      self._step = self._ahead.result() if self._ahead else self._jit(state)
    with self._context():
      return self._step(state, self._place(batch))
