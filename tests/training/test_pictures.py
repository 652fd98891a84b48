"""config.figures_every draws the right figures at the right steps, and does not change training."""

import json
import struct

import cv2
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from tests.helpers.jobs import FIGURES, end, interrupted
from vit_jax.config.fields import default_config
from vit_jax.errors import InputError
from vit_jax.pretrained.formats import read_arrays
from vit_jax.training import loop as train_lib
from vit_jax.training.step_metrics import StepMetrics

ALL = ['filters', 'position_similarity', 'predictions']


def config(data_dir, **changes):
  c = default_config()
  c.update(
    dict(
      model='ViT-Ti/8',
      num_layers=1,
      hidden_dim=16,
      mlp_dim=16,
      num_heads=2,
      image_size=16,
      dtype='float32',
      dropout=0.1,
      dataset='digits',
      data_dir=data_dir,
      preset='bit',
      batch_size=16,
      total_steps=6,
      lr=1e-3,
      warmup_steps=2,
      log_every=2,
      eval_every=0,
      save_every=0,
      eval_split='test[:50]',
      num_threads=2,
    )
  )
  c.update(changes)
  return c


def drawn(workdir):
  """Return {step: names of its figures}."""
  return (
    {int(d.name): sorted(p.stem for p in d.glob('*.png')) for d in (workdir / 'figures').iterdir()}
    if (workdir / 'figures').exists()
    else {}
  )


def shown(workdir):
  """Return (step, tag, pixels) of the images in TensorBoard, without those that were purged."""
  images = []
  for path in sorted((workdir / 'tensorboard' / 'figures').iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (size,) = struct.unpack('<Q', data[at : at + 8])
      event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
      if event.session_log.status == event_pb2.SessionLog.START:
        images = [x for x in images if x[0] < event.step]
      images += [
        (
          event.step,
          v.tag,
          cv2.imdecode(np.frombuffer(v.image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR),
        )
        for v in event.summary.value
      ]
      at += 16 + size
  return images


def lines(workdir):
  return [
    {k: v for k, v in json.loads(line).items() if k not in FIGURES}
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]


@pytest.mark.parametrize(
  'mode',
  [
    {},
    dict(parallel='mesh', mesh=(2, 4)),
    dict(parallel='mesh', mesh=(1, 8), scan=True, pos_embedding_at='every', num_layers=2),
  ],
  ids=str,
)
def test_pictures_are_drawn_and_training_is_the_same(tmp_path, digits_dir, mode):
  c = config(digits_dir, **mode)
  train_lib.train(c, tmp_path / 'without')
  assert drawn(tmp_path / 'without') == {}
  assert not (tmp_path / 'without' / 'tensorboard' / 'figures').exists()
  c.figures_every = 4
  train_lib.train(c, tmp_path / 'with')
  assert drawn(tmp_path / 'with') == {4: ALL, 6: ALL}  # and after the last step
  assert lines(tmp_path / 'with') == lines(tmp_path / 'without')
  a, b = (read_arrays(tmp_path / name) for name in ('with', 'without'))
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])
  images = shown(tmp_path / 'with')
  assert [x[:2] for x in images] == [
    (step, f'figures/{name}') for step in (4, 6) for name in reversed(ALL)
  ]
  for step, tag, pixels in images:
    path = tmp_path / 'with' / 'figures' / str(step) / f'{tag.split("/")[1]}.png'
    np.testing.assert_array_equal(pixels, cv2.imread(str(path)))
    assert pixels.std() > 5 and path.stat().st_size < 300_000


def test_resume_without_gaps_or_doubles(tmp_path, digits_dir, monkeypatch):
  c = config(digits_dir, figures_every=2, eval_split='test[:16]')
  interrupted(monkeypatch, 2, c, tmp_path)  # after the save of step 2, before its pictures
  assert drawn(tmp_path) == {}
  interrupted(monkeypatch, 1, c, tmp_path)  # draws them, and stops after step 3
  assert drawn(tmp_path) == {2: ALL}
  # A kill: step 4 is drawn, but not saved.
  with monkeypatch.context() as m:
    m.setattr(StepMetrics, 'check', dies_at_6(StepMetrics.check))
    with pytest.raises(ZeroDivisionError):
      train_lib.train(c, tmp_path)
  assert drawn(tmp_path) == {2: ALL, 4: ALL}
  before = (tmp_path / 'figures' / '2' / 'filters.png').stat().st_mtime_ns
  train_lib.train(c, tmp_path)
  assert drawn(tmp_path) == {2: ALL, 4: ALL, 6: ALL}
  assert (tmp_path / 'figures' / '2' / 'filters.png').stat().st_mtime_ns == before
  steps = [x[:2] for x in shown(tmp_path)]
  assert steps == [(step, f'figures/{name}') for step in (2, 4, 6) for name in reversed(ALL)]
  train_lib.train(c, tmp_path)  # finished before: nothing is drawn again
  assert [x[:2] for x in shown(tmp_path)] == steps


def dies_at_6(check):
  def check_steps(self):
    if self._unchecked[-1][0] == 6:
      raise ZeroDivisionError
    return check(self)

  return check_steps


@pytest.mark.parametrize(
  'changes, pictures',
  [
    (dict(pos_embedding='none'), ['filters', 'predictions']),
    (dict(pos_embedding='sincos2d', head='gap'), ALL),
    (dict(eval_split='none'), ['filters', 'position_similarity']),
    (dict(pretext='masked_patches'), ['filters', 'position_similarity']),
    pytest.param(
      dict(
        model='BiT-R50x1',
        num_layers=0,
        hidden_dim=0,
        mlp_dim=0,
        num_heads=0,
        image_size=32,
        dropout=0.0,
      ),
      ['filters', 'predictions'],
      marks=pytest.mark.slow,
    ),
  ],
  ids=str,
)
def test_what_a_model_does_not_have_is_left_out(tmp_path, digits_dir, changes, pictures):
  train_lib.train(config(digits_dir, total_steps=1, figures_every=9, **changes), tmp_path)
  assert drawn(tmp_path) == {1: pictures}


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags', [(), ('--config.parallel=mesh', '--config.mesh=(1, 8)')], ids=['pmap', 'mesh']
)
def test_two_processes(tmp_path, start, flags):
  """Only process 0 draws, from parameters that a mesh splits across both processes."""
  logs = end(start(tmp_path, '--config.figures_every=20', *flags), [0, 0])
  assert drawn(tmp_path) == {20: ALL, 30: ALL}
  assert len(shown(tmp_path)) == 6 and 'error' not in ''.join(logs)


def test_negative_is_an_error(tmp_path):
  with pytest.raises(InputError, match='config.figures_every must not be negative, got -1'):
    train_lib.train(config('', figures_every=-1), tmp_path)
