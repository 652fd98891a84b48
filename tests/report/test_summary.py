import datetime
import os

import numpy as np

from vit_jax.report import summary


def test_changed_fields():
  assert summary.changed_fields(
    {'b': [1, 2], 'a': 1, 'old': 3}, {'a': 2, 'b': (1, 2), 'new': 0}
  ) == [('a', 1, 2), ('old', 3, 'no field of this version')]


def test_results_and_speeds():
  steps = np.array([1, 2, 3])
  curves = {
    'train/loss': (steps, np.array([3.0, 2.0, 1.0])),
    'eval/accuracy': (steps[:2], steps[:2] / 4),
    'train/images_per_second': (steps, np.array([10.0, 2000.0, 30.0])),
    'train/mfu': (steps, np.array([0.1, 0.3, 0.25])),
    'train/goodput': (steps, steps / 4),
    'train/seconds_waiting_for_data': (steps, steps),
  }
  assert summary.last_values(curves) == [('eval/accuracy', 2, 0.5), ('train/loss', 3, 1.0)]
  assert summary.speeds(curves) == [
    ('images per second', '30.0', '30.0'),
    ('MFU (fraction of peak FLOP/s)', '25.0%', '25.0%'),
    ('goodput (fraction of wall time since the start)', '', '75.0%'),
  ]


def test_checkpoints_newest_first(tmp_path):
  for step, size in ((5, 3), (40, 4)):
    (tmp_path / 'checkpoints' / str(step) / 'state').mkdir(parents=True)
    (tmp_path / 'checkpoints' / str(step) / 'state' / 'x').write_bytes(bytes(size))
    os.utime(tmp_path / 'checkpoints' / str(step), (1e9, 1e9))
  (tmp_path / 'checkpoints' / '60.orbax-checkpoint-tmp').mkdir()
  then = datetime.datetime.fromtimestamp(1e9)
  assert summary.find_checkpoints(tmp_path) == [(40, 4, then), (5, 3, then)]
