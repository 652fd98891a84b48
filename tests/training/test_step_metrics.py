import types

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import NotFinite
from vit_jax.training.step_metrics import StepMetrics


def metrics(loss, grad_norm=1.0):
  return {
    'loss': jnp.float32(loss),
    'accuracy': jnp.float32(0.5),
    'grad_norm': jnp.float32(grad_norm),
  }


def make():
  waits = []
  checkpoints = types.SimpleNamespace(
    wait=lambda: waits.append(True), newest_good=lambda: 'The last good checkpoint is step 2.'
  )
  return StepMetrics(checkpoints, max_in_flight=1), waits


def test_returns_the_newest_step_and_averages_all():
  steps, _ = make()
  for step, loss in enumerate([3.0, 2.0, 1.0], start=1):
    steps.add(step, metrics(loss))
  assert steps.check()['train/loss'] == 1.0
  assert steps.means.read()['train/loss'] == pytest.approx(2.0)
  steps.add(4, metrics(5.0))  # the third step is not counted twice
  assert steps.check()['train/loss'] == 5.0
  assert steps.means.read()['train/loss'] == pytest.approx(5.0)


@pytest.mark.parametrize(
  'bad, name, value', [(metrics(np.nan), 'loss', 'nan'), (metrics(1.0, np.inf), 'gradient', 'inf')]
)
def test_names_the_first_step_that_is_not_finite(bad, name, value):
  steps, waits = make()
  steps.add(3, metrics(1.0))
  steps.add(4, bad)
  steps.add(5, metrics(np.nan))
  with pytest.raises(NotFinite) as error:
    steps.check()
  assert str(error.value) == (
    f'The {name} is {value} at step 4. The last good checkpoint is step 2. Try a lower lr, a '
    'longer warmup or clip_norm=1.'
  )
  assert waits == [True]


def test_a_resumed_run_continues_its_means():
  steps, _ = make()
  steps.add(1, metrics(4.0))
  steps.check()
  resumed, _ = make()
  resumed.resume(steps.means.sums(), 1)
  resumed.add(2, metrics(2.0))
  resumed.check()
  assert resumed.means.read()['train/loss'] == pytest.approx(3.0)
