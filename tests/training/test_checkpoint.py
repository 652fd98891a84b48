import collections
import gc
import os
import pathlib
import shutil
import sys

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.training import checkpoint
from vit_jax.training.checkpoint import Checkpoints


def state(value=0.0):
  return {
    'step': jnp.int32(7),
    'params': {
      'dense': {
        'kernel': jnp.arange(600, dtype=jnp.float32).reshape(20, 30) + value,
        'bias': jnp.zeros(30),
      },
      'half': jnp.ones(9, jnp.bfloat16),
    },
  }


def data_file(directory: pathlib.Path) -> pathlib.Path:
  return max(directory.glob('*/state/**/d/*'), key=lambda f: f.stat().st_size)


def test_round_trip_is_bitwise(tmp_path):
  c = Checkpoints(tmp_path)
  assert c.restore(state()) is None
  c.save(7, state(), {'model': 'ViT-B/16'})
  c.wait()
  restored, metadata = c.restore(jax.eval_shape(state))
  assert metadata['model'] == 'ViT-B/16'
  for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state()), strict=True):
    assert a.dtype == b.dtype and np.array_equal(a, b)
  c.close()


def test_a_save_holds_the_state_of_its_call(tmp_path):
  """The step donates its buffers, so later values in them must not reach the checkpoint."""
  c = Checkpoints(tmp_path)
  step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  s = {'w': jnp.zeros((1000, 1000))}
  for k in range(1, 4):
    s = step(s)
    c.save(k, s, {})
    for _ in range(5):
      s = step(s)
    c.wait()
    assert np.all(np.asarray(c.restore({'w': s['w']})[0]['w']) == 1 + 6 * (k - 1))
  c.close()


def test_the_last_three_and_the_milestones_stay(tmp_path):
  c = Checkpoints(tmp_path, keep=3, keep_every=4)
  for k in range(1, 11):
    c.save(k, state(k), {})
  c.wait()
  assert c.steps() == [4, 8, 9, 10]
  assert sorted(int(d.name) for d in tmp_path.iterdir()) == [4, 8, 9, 10]
  np.testing.assert_array_equal(
    c.restore(state())[0]['params']['dense']['kernel'], state(10)['params']['dense']['kernel']
  )
  c.close()


def test_a_flipped_byte_on_disk_is_found_and_named(tmp_path):
  c = Checkpoints(tmp_path)
  big = {'w': jnp.asarray(np.random.default_rng(0).normal(size=(300, 300)), jnp.float32)}
  for k in (1, 2):
    c.save(k, big, {})
  c.wait()
  path = data_file(tmp_path / '..' / tmp_path.name)
  newest = max((tmp_path / '2').glob('state/**/d/*'), key=lambda f: f.stat().st_size)
  data = bytearray(newest.read_bytes())
  data[len(data) // 2] ^= 4
  newest.write_bytes(data)
  with pytest.raises(
    ValueError, match=r'/2 .*damaged. Delete that directory to continue from step 1'
  ):
    Checkpoints(tmp_path).restore(big)
  assert path.exists()


@pytest.mark.parametrize('damage', ['truncated', 'gone', 'no meta'])
def test_missing_parts_are_found(tmp_path, damage):
  c = Checkpoints(tmp_path)
  c.save(1, state(), {})
  c.close()
  if damage == 'truncated':
    data_file(tmp_path).write_bytes(data_file(tmp_path).read_bytes()[:40])
  elif damage == 'gone':
    data_file(tmp_path).unlink()
  else:
    (tmp_path / '1' / 'meta' / 'metadata').write_text('{')
  with pytest.raises(ValueError, match='damaged. Delete that directory to start again'):
    Checkpoints(tmp_path).restore(state())


def test_a_failed_read_is_told_once(tmp_path, monkeypatch, caplog):
  """Many arrays are still being read when the first one fails. None of them prints a traceback."""
  unraisable = []
  monkeypatch.setattr(sys, 'unraisablehook', unraisable.append)
  rng = np.random.default_rng(0)
  many = {f'w{k}': jnp.asarray(rng.normal(size=(64, 400)), jnp.float32) for k in range(60)}
  c = Checkpoints(tmp_path)
  c.save(1, many, {})
  c.wait()
  os.truncate(data_file(tmp_path), data_file(tmp_path).stat().st_size // 2)
  for _ in range(5):
    with pytest.raises(InputError, match='it is damaged. Delete that directory to start again.'):
      c.restore(many)
  gc.collect()  # asyncio reports tasks that nobody waits for when they are deleted
  assert not unraisable and not caplog.records


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_whatever_file_is_damaged_the_state_is_right_or_refused(tmp_path):
  """Each file of a checkpoint is lost, emptied, cut to half, or has a bit flipped."""
  big = {'w': jnp.asarray(np.random.default_rng(0).normal(size=(99, 70)), jnp.float32), **state()}
  c = Checkpoints(tmp_path / 'good')
  for k in (1, 2):
    c.save(k, big, {})
  c.close()
  refused = collections.Counter()
  for path in sorted((tmp_path / 'good/2').rglob('*')):
    data = path.read_bytes() if path.is_file() else b''
    half, flipped = data[: len(data) // 2], bytearray(data)
    flipped[len(data) // 2 : len(data) // 2 + 1] = bytes(x ^ 4 for x in data[len(data) // 2 :][:1])
    for kind, damaged in dict(lost=None, empty=b'', half=half, flipped=bytes(flipped)).items():
      if damaged == data or path.is_dir():
        continue
      copy = shutil.copytree(tmp_path / 'good', tmp_path / f'{path.name} {kind}')
      target = copy / path.relative_to(tmp_path / 'good')
      target.unlink()
      if damaged is not None:
        target.write_bytes(damaged)
      c = Checkpoints(copy)
      try:
        got, _ = c.restore(big)
      except InputError as e:
        refused[kind] += 1
        assert str(e).startswith(f'The checkpoint {copy}/2 ') and len(str(e)) < 700, e
        assert str(e).endswith(': it is damaged. Delete that directory to continue from step 1.')
        assert 'pybind' not in str(e) and 'tensorstore' not in str(e), e
      else:
        same = jax.tree.map(np.array_equal, got, big)
        assert all(jax.tree.leaves(same)), (path, kind, same)
      c.close()
      shutil.rmtree(copy)
  assert min(refused[kind] for kind in ('lost', 'empty', 'half', 'flipped')) >= 4, refused


def test_a_checkpoint_out_of_reach_is_not_called_damaged(tmp_path):
  """Any error of the operating system, except a missing file, may be temporary."""
  c = Checkpoints(tmp_path)
  c.save(1, state(), {})
  c.close()
  path = data_file(tmp_path)
  path.unlink()
  path.symlink_to(path)
  with pytest.raises(
    ValueError,
    match=r'Cannot read the checkpoint .*/1: Too many levels of symbolic links. '
    'Correct that and run the same command again',
  ):
    Checkpoints(tmp_path).restore(state())


NOT_THE_FILE = [
  MemoryError('Unable to allocate 9 GiB'),
  RuntimeError("Unable to initialize backend 'cuda': no device"),
  jax.errors.JaxRuntimeError('UNAVAILABLE: another process is gone'),
]


@pytest.mark.parametrize('error', NOT_THE_FILE, ids=lambda error: type(error).__name__)
def test_what_the_machine_lacks_is_not_blamed_on_the_checkpoint(tmp_path, monkeypatch, error):
  c = Checkpoints(tmp_path)
  c.save(7, state(), {})
  c.wait()

  def fail(*_, **__):
    raise error

  monkeypatch.setattr(c._manager, 'restore', fail)
  with pytest.raises(type(error)) as read:
    c.restore(state())
  assert read.value is error
  monkeypatch.setattr(c._manager, 'save', fail)
  with pytest.raises(type(error)) as written:
    c.save(8, state(), {})
  assert written.value is error


def test_an_error_of_the_check_is_its_own(tmp_path):
  """It is not part of reading, so a bug in it does not make the checkpoint a damaged one."""
  c = Checkpoints(tmp_path)
  c.save(7, state(), {'model': 'a'})
  c.wait()
  with pytest.raises(ZeroDivisionError):
    c.restore(state(), lambda metadata: 1 // 0)
  with pytest.raises(InputError, match='^Another model.$'):
    c.restore(state(), lambda metadata: (_ for _ in ()).throw(InputError('Another model.')))
  c.close()


def test_another_architecture_lists_the_arrays(tmp_path):
  c = Checkpoints(tmp_path)
  c.save(1, state(), {})
  c.wait()
  other = state()
  other['params'] = {
    'dense': {'kernel': jnp.zeros((20, 31))},
    'half': other['params']['half'],
    'more': jnp.zeros(2),
  }
  with pytest.raises(ValueError) as e:
    c.restore(other)
  for words in (
    'params/dense/kernel is (20, 30), the model has (20, 31)',
    'params/dense/bias is (30,), the model has none',
    'params/more is missing, the model has (2,)',
    'Choose another workdir',
  ):
    assert words in str(e.value)
  assert 'half' not in str(e.value)


def test_saving_does_not_meddle_with_the_preemption_sync_point(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', calls.append)
  c = Checkpoints(tmp_path)
  c.save(1000, state(), {})
  c.close()
  assert not calls


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_non_finite_state_is_never_saved(tmp_path, value):
  c = Checkpoints(tmp_path)
  c.save(1, state(), {})
  c.wait()
  bad = state()
  bad['params']['dense']['bias'] = bad['params']['dense']['bias'].at[3].set(value)
  with pytest.raises(
    ValueError, match='step 2 is not finite in params/dense/bias. The checkpoint of step 1 is good'
  ):
    c.save(2, bad, {})
  assert c.steps() == [1]


def test_a_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
  c = Checkpoints(tmp_path)
  c.save(1, state(), {})
  c.wait()
  usage = checkpoint.shutil.disk_usage(tmp_path)._replace(free=100)
  monkeypatch.setattr(checkpoint.shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(ValueError, match='There is no space left in .*a checkpoint needs'):
    c.save(2, state(), {})
  assert c.steps() == [1]
