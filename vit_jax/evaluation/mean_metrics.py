"""Compute mean loss and accuracy over a split, counting every example exactly once.

Training evaluates with this. The command vit_jax.tools.evaluate, which also reports on classes and
confusions, uses predictions.py and per_class_report.py.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from vit_jax.models.params import Params

Sums = Mapping[str, jax.Array]


def evaluate(
  eval_step: Callable[[Params, Any], Sums],
  params: Params,
  batches: Iterable[Any],
  should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
  """Return the mean loss and the top-1 accuracy over all unmasked examples.

  Args:
    eval_step: (params, batch) -> {'loss', 'correct', 'examples'}, sums over all devices.
    params: parameters on the devices.
    batches: this process's share of padded and masked batches, the same number on every process.
    should_stop: called after each batch. Evaluation ends early if it returns True.

  Returns:
    {'loss', 'accuracy', 'examples'}, or None if evaluation ended early.
  """
  loss, correct, examples = 0.0, 0, 0
  pending = None

  def collect(sums: Sums) -> None:
    nonlocal loss, correct, examples
    sums = jax.device_get(sums)
    loss += float(sums['loss'])
    correct += sums['correct'].item()
    examples += int(sums['examples'])

  for batch in batches:
    sums = eval_step(params, batch)
    if pending is not None:
      collect(pending)  # one batch late, so that the device works while the host decodes the next
    pending = sums
    if should_stop():
      return None
  if pending is not None:
    collect(pending)
  count = max(1, examples)
  return dict(loss=loss / count, accuracy=correct / count, examples=examples)
