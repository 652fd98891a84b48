"""A train step may be compiled while a run starts."""

import threading

import jax
import numpy as np
import pytest

from tests.helpers.small_step import batch, setup, with_head
from vit_jax.errors import InputError
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.pmap import PmapPartitioner

PARTITIONERS = [PmapPartitioner, lambda size: MeshPartitioner(size, mesh=(2, 4))]


def shapes(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.mark.parametrize('make', PARTITIONERS, ids=['pmap', 'mesh'])
def test_a_step_compiled_ahead_is_the_same_and_is_not_compiled_again(make):
  partitioner, (step, init), threads = make(16), setup(), []

  def traced(*args):
    threads.append(threading.current_thread().name)
    return step(*args)

  results = []
  for ahead in (True, False):
    state = partitioner.put(with_head(init()))
    train_step = partitioner.train_step(traced)
    if ahead:
      train_step.compile_ahead(jax.eval_shape(init), shapes(batch()))
    for seed in range(3):
      state, metrics = train_step(state, batch(seed))
    results.append(jax.device_get((state, metrics)))
  assert threads == ['compile', 'MainThread']
  for x, y in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_array_equal(x, y)


def test_compiling_ahead_does_not_wait():
  partitioner, (step, init), go = PmapPartitioner(16), setup(), threading.Event()

  def slow(*args):
    assert go.wait(60)
    return step(*args)

  train_step = partitioner.train_step(slow)
  train_step.compile_ahead(jax.eval_shape(init), shapes(batch()))
  state = partitioner.init(init)  # the state can be made in the meantime
  go.set()
  assert int(train_step(state, batch())[0].step) == 1


def test_an_error_in_the_thread_is_raised_by_the_first_call():
  partitioner, (_, init) = PmapPartitioner(16), setup()

  def wrong(*args):
    raise InputError('The step does not fit.')

  train_step = partitioner.train_step(wrong)
  train_step.compile_ahead(jax.eval_shape(init), shapes(batch()))
  with pytest.raises(InputError) as raised:
    train_step(partitioner.init(init), batch())
  assert str(raised.value) == 'The step does not fit.'
