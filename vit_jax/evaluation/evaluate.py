"""Evaluation that counts every example exactly once."""

from collections.abc import Callable, Iterable
from typing import Any

import jax


def evaluate(
  eval_step: Callable[..., Any],
  params: Any,
  batches: Iterable[Any],
  should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
  """Top-1 accuracy and mean loss over all unmasked examples.

  Args:
    eval_step: (params, batch) -> sums loss, correct, examples over all devices.
    params: on the devices.
    batches: padded and masked; each process gives its share, all the same number of them.
    should_stop: asked once a batch.
  Returns:
    {'loss', 'accuracy', 'examples'}, or None when stopped before the end.
  """
  loss, correct, examples = 0.0, 0, 0
  pending = None

  def collect(sums):
    nonlocal loss, correct, examples
    sums = jax.device_get(sums)
    loss += float(sums['loss'])
    correct += sums['correct'].item()
    examples += int(sums['examples'])

  for batch in batches:
    sums = eval_step(params, batch)
    if pending is not None:
      collect(pending)  # one batch late: the device works while the host decodes the next
    pending = sums
    if should_stop():
      return None
  if pending is not None:
    collect(pending)
  examples_or_1 = max(1, examples)
  return dict(loss=loss / examples_or_1, accuracy=correct / examples_or_1, examples=examples)
