import json
import logging
import struct

import pytest
from tensorboardX.proto import event_pb2

from vit_jax.training import metrics
from vit_jax.training.metrics import Meter, MetricsWriter, duration


def lines(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def events(workdir):
  """(step, tag, value) of all event files, read as TFRecords of Event protos."""
  for path in sorted((workdir / 'tensorboard').iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (size,) = struct.unpack('<Q', data[at : at + 8])
      event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
      yield from ((event.step, v.tag, v.simple_value) for v in event.summary.value)
      at += 16 + size


def test_lines_and_events_hold_the_same(tmp_path):
  writer = MetricsWriter(tmp_path)
  writer.write(10, {'train/loss': 0.5, 'train/lr': 0.25})
  assert lines(tmp_path) == [{'step': 10, 'train/loss': 0.5, 'train/lr': 0.25}]  # at once
  writer.write(20, {'eval/accuracy': 1.0})
  writer.close()
  assert set(events(tmp_path)) == {
    (10, 'train/loss', 0.5),
    (10, 'train/lr', 0.25),
    (20, 'eval/accuracy', 1.0),
  }


def test_resume_drops_what_will_be_repeated_and_a_line_cut_short(tmp_path):
  writer = MetricsWriter(tmp_path)
  for step in (10, 20, 30):
    writer.write(step, {'train/loss': float(step)})
  writer.close()
  with open(tmp_path / 'metrics.jsonl', 'a') as f:
    f.write('{"step": 40, "tra')
  writer = MetricsWriter(tmp_path, resume_step=20)
  assert [line['step'] for line in lines(tmp_path)] == [10, 20]
  assert writer.has(20, 'train/loss') and not writer.has(30, 'train/loss')
  assert writer.latest['train/loss'] == 20
  writer.write(30, {'train/loss': 31.0})
  writer.close()
  assert lines(tmp_path)[-1] == {'step': 30, 'train/loss': 31.0}


@pytest.fixture
def now(monkeypatch):
  """The clock, to be set."""
  now = [100.0]
  monkeypatch.setattr(metrics.time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(metrics.time, 'time', lambda: 1e9 + now[0])
  return now


def test_meter_counts_images_devices_and_waiting(now):
  meter = Meter(batch_size=32, num_devices=4)
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
  """Started 30 s ago, of which 6 went into steps that were kept; then killed, started again."""
  meter = Meter(batch_size=32, num_devices=4, peak_images=40.0, started=1e9 + 70, productive=6.0)
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


def test_durations_read_well():
  assert [duration(s) for s in (0.2, 59, 150, 7260, 93784, float('inf'))] == [
    '0s',
    '59s',
    '2m 30s',
    '2h 1m',
    '1d 2h',
    '?',
  ]


def test_the_log_goes_to_its_file(tmp_path):
  metrics.start_log(tmp_path / 'log.txt')
  metrics.log.info('step %d', 3)
  logging.getLogger('other').info('not here')
  assert (tmp_path / 'log.txt').read_text().endswith(' step 3\n')
