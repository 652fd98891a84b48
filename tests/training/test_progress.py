"""Without a terminal, progress is a log line."""

from vit_jax.training.progress import Progress


def test_a_line_tells_metrics_speed_and_the_time_left(messages):
  progress = Progress(total_steps=300, done=0)
  metrics = {
    'train/loss': 2.5,
    'train/accuracy': 0.125,
    'train/lr': 1e-3,
    'train/images_per_second': 1234.5,
  }
  progress.report(100, metrics, steps_per_second=2.0)
  progress.report(200, metrics | {'train/images_per_second': 4.567}, steps_per_second=0.5)
  progress.close()
  assert messages == [
    'step 100/300  loss 2.5000  accuracy 12.5%  1,234 images/s  lr 1.00e-03  1m 40s left',
    'step 200/300  loss 2.5000  accuracy 12.5%  4.57 images/s  lr 1.00e-03  3m 20s left',
  ]
