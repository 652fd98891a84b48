"""Whole training runs, in this process on 8 simulated devices."""

import json
import os
import pathlib
import shutil
import signal

import cv2
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.helpers.jobs import FIGURES, interrupted
from vit_jax.config.fields import default_config
from vit_jax.errors import InputError, Interrupted
from vit_jax.parallel.train_call import TrainCall
from vit_jax.training import loop as train_lib
from vit_jax.training.monitor import Monitor


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  return str(tmp_path_factory.mktemp('tfds'))


def config(data_dir, **changes):
  c = default_config()
  c.update(
    dict(
      model='ViT-Ti/8',
      num_layers=1,
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


def lines(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def saved(workdir):
  return sorted(int(d.name) for d in (workdir / 'checkpoints').iterdir())


def arrays(workdir, step):
  handler = ocp.PyTreeCheckpointer()
  return handler.restore((workdir / 'checkpoints' / str(step) / 'state').absolute())


def same(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_steps_are_traced(tmp_path, data_dir):
  train_lib.train(config(data_dir, profile_steps=(3, 4)), tmp_path)
  (trace,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  names = [
    event.name
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
    for line in plane.lines
    for event in line.events
  ]
  assert any('dot' in name for name in names)  # the device's work


def test_every_means_what_it_says(tmp_path, data_dir):
  train_lib.train(
    config(data_dir, total_steps=7, log_every=2, eval_every=3, save_every=2), tmp_path
  )
  record = lines(tmp_path)
  assert [r['step'] for r in record if 'train/loss' in r] == [2, 4, 6, 7]
  assert [r['step'] for r in record if 'eval/accuracy' in r] == [3, 6, 7]
  assert saved(tmp_path) == [4, 6, 7]  # the last three of 2, 4, 6, 7
  assert all(r['eval/examples'] == 50 for r in record if 'eval/examples' in r)
  first = record[0]
  assert set(first) == {
    'step',
    'train/loss',
    'train/accuracy',
    'train/grad_norm',
    'train/lr',
    *FIGURES,
  }
  assert abs(first['train/loss'] - np.log(10)) < 0.1  # a zero head, two steps of warmup
  assert first['train/lr'] == pytest.approx(1e-3 / 2)
  written = json.loads((tmp_path / 'config.json').read_text())
  assert written['total_steps'] == 7 and set(written) == set(default_config())
  assert 'step 7: test[:50] accuracy' in (tmp_path / 'log.txt').read_text()


def test_epochs_and_no_evaluation(tmp_path, data_dir):
  c = config(data_dir, total_steps=0, num_epochs=0.05, train_split='train[:640]', eval_split='none')
  train_lib.train(c, tmp_path)
  assert saved(tmp_path) == [2]  # .05 * 640 / 16
  assert not any('eval/accuracy' in r for r in lines(tmp_path))


def test_stopping_anywhere_changes_nothing(tmp_path, data_dir, monkeypatch):
  """Stop after a step, in an evaluation (4 batches after step 3), and before the last step."""
  c = config(data_dir, eval_every=3, save_every=2)
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  train_lib.train(c, whole)
  interrupted(monkeypatch, 1, c, parts)
  assert saved(parts) == [1]
  interrupted(monkeypatch, 4, c, parts)  # two steps, then the second batch of the evaluation
  assert saved(parts) == [1, 2, 3]
  assert not any('eval/accuracy' in r for r in lines(parts))
  interrupted(monkeypatch, 2, c, parts)  # in the evaluation again, which the restart makes up for
  assert saved(parts) == [1, 2, 3]
  interrupted(monkeypatch, 5, c, parts)  # at the step after it
  assert [r['step'] for r in lines(parts) if 'eval/accuracy' in r] == [3]
  assert saved(parts) == [2, 3, 4]
  train_lib.train(c, parts)
  same(arrays(whole, 6), arrays(parts, 6))
  strip = lambda rows: [{k: v for k, v in r.items() if k not in FIGURES} for r in rows]
  assert strip(lines(whole)) == strip(lines(parts))


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_raises_interrupted_from_python_too(
  tmp_path, data_dir, monkeypatch, number
):
  """As in a notebook, where no command line has set the handlers."""
  end = Monitor.end

  def end_and_send(self, step, metrics):
    end(self, step, metrics)
    if step == 3:
      os.kill(os.getpid(), number)

  monkeypatch.setattr(Monitor, 'end', end_and_send)
  before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
  with pytest.raises(Interrupted) as stopped:
    train_lib.train(config(data_dir, eval_split='none'), tmp_path)
  assert str(stopped.value) == (
    'Stopped at step 3 of 6 and saved. Run the same command again to continue.'
  )
  assert saved(tmp_path) == [3]
  assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_run_in_the_workdir_touches_nothing_of_the_first(tmp_path, data_dir, monkeypatch):
  """Orbax removes unfinished checkpoints when a run starts, which must not be of a living run."""
  end, messages = Monitor.end, []

  def end_and_start_another(self, step, metrics):
    end(self, step, metrics)
    if step == 3:
      unfinished = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
      unfinished.mkdir()
      before = sorted(tmp_path.rglob('*')), (tmp_path / 'log.txt').read_text()
      with pytest.raises(InputError) as error:
        train_lib.train(config(data_dir), tmp_path)
      messages.append(str(error.value))
      assert (sorted(tmp_path.rglob('*')), (tmp_path / 'log.txt').read_text()) == before
      unfinished.rmdir()

  monkeypatch.setattr(Monitor, 'end', end_and_start_another)
  train_lib.train(config(data_dir, total_steps=4, eval_split='none'), tmp_path)
  assert len(messages) == 1
  assert messages[0].startswith(f'The workdir {tmp_path} is in use by process {os.getpid()} on ')
  assert saved(tmp_path) == [4] and not (tmp_path / 'lock.json').exists()


def test_a_run_that_was_taken_for_dead_saves_no_more(tmp_path, data_dir, monkeypatch):
  end = Monitor.end

  def end_and_lose_the_lock(self, step, metrics):
    end(self, step, metrics)
    if step == 4:
      path = tmp_path / 'lock.json'
      other = json.loads(path.read_text()) | {'id': 'other', 'host': 'far', 'pid': 7}
      path.write_text(json.dumps(other))

  monkeypatch.setattr(Monitor, 'end', end_and_lose_the_lock)
  with pytest.raises(InputError, match='is in use by process 7 on far, which started at 2'):
    train_lib.train(config(data_dir, save_every=2, eval_split='none'), tmp_path)
  assert saved(tmp_path) == [2]
  assert json.loads((tmp_path / 'lock.json').read_text())['pid'] == 7


def test_a_finished_run_says_so(tmp_path, data_dir):
  c = config(data_dir)
  first = train_lib.train(c, tmp_path)
  before = (tmp_path / 'metrics.jsonl').read_text()
  second = train_lib.train(c, tmp_path)
  assert 'already finished: all 6 steps' in (tmp_path / 'log.txt').read_text()
  assert second == first
  assert (tmp_path / 'metrics.jsonl').read_text() == before


def test_more_steps_continue_from_the_end_and_changes_are_logged(tmp_path, data_dir):
  train_lib.train(config(data_dir), tmp_path)
  train_lib.train(config(data_dir, total_steps=8, lr=2e-3), tmp_path)
  assert saved(tmp_path) == [6, 8]
  text = (tmp_path / 'log.txt').read_text()
  assert 'Resuming from step 6 of 8' in text and 'config.lr was 0.001 and is now 0.002' in text
  with pytest.raises(ValueError, match='is at step 8, beyond total_steps=6'):
    train_lib.train(config(data_dir), tmp_path)


def test_a_non_finite_loss_names_the_step_and_keeps_the_good_checkpoint(tmp_path, data_dir):
  c = config(data_dir, save_every=1, total_steps=2)
  train_lib.train(c, tmp_path)
  c = config(data_dir, save_every=3, total_steps=40, lr=1e38, clip_norm=0.0, log_every=20)
  with pytest.raises(ValueError, match=r'is (nan|inf) at step [3-9]. The checkpoint of step \d '):
    train_lib.train(c, tmp_path)
  c.update(lr=1e39)  # the first loss is finite, but the parameters after its update are not
  c.save_every = 1
  with pytest.raises(ValueError, match=r'The update of step 1 is not finite in params/'):
    train_lib.train(c, tmp_path / 'at once')
  kept = saved(tmp_path)
  assert 2 in kept
  for leaf in jax.tree.leaves(arrays(tmp_path, kept[-1])):
    assert np.isfinite(leaf).all()


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  for split, count in (('train', 12), ('val', 5)):
    for name, channel in (('blue', 0), ('red', 2)):
      directory = tmp_path / 'photos' / split / name
      directory.mkdir(parents=True)
      for i in range(count):
        image = rng.integers(0, 80, (20 + i, 30, 3), dtype=np.uint8)
        image[..., channel] += 170
        cv2.imwrite(str(directory / f'{i}.{("jpg", "png")[i % 2]}'), image)
  return tmp_path / 'photos'


@pytest.mark.slow
def test_a_users_folder_is_learned(tmp_path, folder):
  c = config('', dataset=str(folder), batch_size=8, total_steps=30, eval_split='', lr=3e-3)
  result = train_lib.train(c, tmp_path / 'run')
  assert result['eval/accuracy'] == 1 and result['eval/examples'] == 10
  assert result['train/loss'] < 0.1


def test_bad_records_stop_the_run_or_are_counted(tmp_path, folder):
  bad = folder / 'train' / 'red' / '3.png'
  bad.write_bytes(bad.read_bytes()[:200])
  c = config('', dataset=str(folder), batch_size=8, total_steps=4, eval_split='')
  with pytest.raises(ValueError, match=r'red/3.png.*max_bad_records=1'):
    train_lib.train(c, tmp_path / 'stops')
  c.max_bad_records = 1
  result = train_lib.train(c, tmp_path / 'goes')
  assert result['train/bad_records'] == 1
  assert '3.png' in (tmp_path / 'goes' / 'log.txt').read_text()


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'batch_size': 12}, 'batch_size=12 does not divide over 8 devices. Try batch_size=16'),
    ({'batch_size': 24, 'accumulate': 2}, '8 devices x 2 accumulation passes'),
    ({'image_size': 20}, 'image_size 20x20 is not a multiple of the patch size 8'),
    ({'dataset': 'digitz'}, "Unknown dataset 'digitz'. Did you mean digits"),
    ({'dataset': 'cifar10'}, 'not prepared in .*python -m vit_jax.tools.prepare cifar10'),
    ({'dataset': 'imagenet2012'}, 'ILSVRC2012_img_train.tar'),
    ({'dataset': './nowhere'}, 'There is no folder ./nowhere'),
    (
      {'train_split': 'trian'},
      "Unknown split 'trian'. Did you mean 'train'\\? Available: train, test.",
    ),
    ({'num_classes': 4}, 'config.num_classes=4 is too small: digits has 10 classes[.]$'),
    ({'model': 'ViT-Z/8'}, "^Unknown model 'ViT-Z/8'. Names are ViT-"),
    (
      {'schedule': 'step'},
      "^Unknown config.schedule 'step'. Did you mean 'steps'[?] Available: cos",
    ),
    ({'resize_size': 12}, 'resize_size'),
  ],
)
def test_bad_input_is_one_sentence(tmp_path, data_dir, changes, words):
  with pytest.raises(ValueError, match=words) as e:
    train_lib.train(config(data_dir, **changes), tmp_path)
  assert type(e.value).__name__ == 'InputError' and '\n' not in str(e.value)


def test_another_architecture_and_an_unwritable_workdir(tmp_path, data_dir):
  train_lib.train(config(data_dir, total_steps=1, eval_split='none'), tmp_path)
  with pytest.raises(ValueError, match=r'another architecture: params/Transformer/encoderblock_1'):
    train_lib.train(config(data_dir, num_layers=2), tmp_path)
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='Cannot write to the workdir'):
    train_lib.train(config(data_dir), tmp_path / 'file' / 'workdir')


def test_the_log_file_is_of_this_run(tmp_path, data_dir):
  assert isinstance(train_lib.train(config(data_dir, total_steps=1), tmp_path), dict)
  text = (pathlib.Path(tmp_path) / 'log.txt').read_text()
  for words in (
    'ViT-Ti/8',
    '8 device(s)',
    'digits: 1,437 training images, 10 classes',
    'step 1/1',
    'Checkpoint:',
    'TensorBoard: tensorboard --logdir=',
  ):
    assert words in text


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(tmp_path, data_dir):
  """pmap -> 2 x 4 -> 4 x 2 with a scan: the losses of one undisturbed run."""
  options = dict(save_every=2, log_every=1)
  train_lib.train(config(data_dir, **options), tmp_path / '0')
  want = {r['step']: r['train/loss'] for r in lines(tmp_path / '0') if 'train/loss' in r}
  meshes = [dict(mesh=(2, 4)), dict(mesh=(4, 2), scan=True, remat='full')]
  for i, fields in enumerate(meshes, start=1):
    step = 2 * i
    shutil.copytree(
      tmp_path / str(i - 1) / 'checkpoints' / str(step),
      tmp_path / str(i) / 'checkpoints' / str(step),
    )
    train_lib.train(config(data_dir, parallel='mesh', **fields, **options), tmp_path / str(i))
    losses = {r['step']: r['train/loss'] for r in lines(tmp_path / str(i)) if 'train/loss' in r}
    assert sorted(losses) == list(range(step + 1, 7))
    np.testing.assert_allclose([losses[k] for k in losses], [want[k] for k in losses], rtol=1e-5)


def test_a_finished_run_compiles_no_step(tmp_path, data_dir, monkeypatch):
  compiled = []
  monkeypatch.setattr(TrainCall, 'compile_ahead', lambda *args: compiled.append(args))
  for runs in (1, 1):
    train_lib.train(config(data_dir, total_steps=2), tmp_path)
    assert len(compiled) == runs
