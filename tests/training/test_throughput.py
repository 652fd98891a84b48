import pytest

from vit_jax.training import throughput
from vit_jax.training.throughput import ThroughputMeter


@pytest.fixture
def now(monkeypatch):
  """Return a list whose element is the time of all clocks."""
  now = [100.0]
  monkeypatch.setattr(throughput.time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(throughput.time, 'time', lambda: 1e9 + now[0])
  return now


def test_meter_counts_images_devices_and_waiting(now):
  meter = ThroughputMeter(batch_size=32, num_devices=4)
  for _ in range(5):
    now[0] += 0.5
    meter.waited(0.5)
    now[0] += 1.5
    meter.step()
  rate, figures = meter.read()
  assert rate == 0.5
  assert figures == {
    'train/images_per_second': 16.0,
    'train/images_per_second_per_device': 4.0,
    'train/seconds_waiting_for_data': 2.5,
    'train/productive_seconds': 7.5,
    'train/goodput': 0.75,
  }
  now[0] += 1.0
  meter.step()
  assert meter.read()[0] == 1


def test_goodput_is_the_share_of_all_time_spent_on_steps(now):
  """The run started 30 s ago, was killed after 6 productive seconds, and has restarted."""
  meter = ThroughputMeter(
    batch_size=32, num_devices=4, peak_images=40.0, started=1e9 + 70, productive=6.0
  )
  now[0] += 1  # the first batch
  meter.waited(1)
  now[0] += 4
  meter.step(compiled=True)
  assert meter.read()[1]['train/goodput'] == 6 / 35
  for _ in range(4):
    now[0] += 1.0
    meter.waited(0.25)
    meter.step()
  with meter.paused():  # saves, evaluates
    now[0] += 7.0
  rate, figures = meter.read()
  assert rate == 1 and figures['train/images_per_second'] == 32
  assert figures['train/productive_seconds'] == 9
  assert figures['train/goodput'] == 9 / 46
  assert figures['train/mfu'] == 32 / 4 / 40  # 8 images/s on a device that could do 40
