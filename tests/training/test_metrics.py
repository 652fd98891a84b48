import json
import struct

from tensorboardX.proto import event_pb2

from vit_jax.training.metrics import MetricsWriter


def lines(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def events(workdir):
  """Return (step, tag, value) of all event files, read as TFRecords of Event protos."""
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


def test_resume_drops_damaged_lines_and_keeps_a_copy(tmp_path):
  damaged = b'{"step": 10, "a": 1}\n\n\x00garbage\n{"step": 20, "a": 2}\n'
  (tmp_path / 'metrics.jsonl').write_bytes(damaged)
  writer = MetricsWriter(tmp_path, resume_step=20)
  writer.close()
  assert lines(tmp_path) == [{'step': 10, 'a': 1}, {'step': 20, 'a': 2}]
  assert (tmp_path / 'metrics.jsonl.damaged').read_bytes() == damaged


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
