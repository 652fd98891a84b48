"""Write metrics as JSON lines and as TensorBoard events.

The metrics themselves come from `step.make_train_step` (train/loss, accuracy, grad_norm, lr),
throughput.py (speed) and periodic_evaluation.py (eval/..., fewshot/...). To log another metric of a
step, add it to the dictionary that train_step returns. progress.py chooses which ones to show.
"""

from collections.abc import Mapping
import json
import pathlib

from vit_jax.config.run import METRICS, read_metrics
from vit_jax.files import write_whole


class MetricsWriter:
  """Writes one JSON line and the same TensorBoard scalars per call, without repeats on resume.

  Attributes:
    latest: the newest value of each metric.
  """

  def __init__(self, directory: pathlib.Path, resume_step: int = 0):
    """Open the files and drop the lines after `resume_step`, which the resumed run will repeat."""
    import tensorboardX

    path = directory / METRICS
    recorded = read_metrics(path, keep_damaged=True) if path.exists() else []
    kept = [line for line in recorded if line['step'] <= resume_step]
    self.latest = {name: value for line in kept for name, value in line.items() if name != 'step'}
    self._seen = {(line['step'], name) for line in kept for name in line}
    write_whole(path, ''.join(json.dumps(line) + '\n' for line in kept))
    self._file = open(path, 'a', encoding='utf-8')  # noqa: SIM115 (stays open until `close`)
    self._events = tensorboardX.SummaryWriter(
      str(directory / 'tensorboard'), purge_step=resume_step + 1 if kept else None
    )

  def has(self, step: int, name: str) -> bool:
    """Return whether the metric `name` of `step` has been written."""
    return (step, name) in self._seen

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Append {'step': step, **metrics}. A reader of the file sees the line at once."""
    self.latest |= metrics
    self._seen |= {(step, name) for name in metrics}
    self._file.write(json.dumps({'step': step, **metrics}) + '\n')
    self._file.flush()
    for name, value in metrics.items():
      self._events.add_scalar(name, value, step)

  def close(self) -> None:
    """Close the files."""
    self._file.close()
    self._events.close()
