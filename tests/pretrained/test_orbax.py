import json

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.helpers.paths import FILES
from vit_jax import create_model, load_params, save_params
from vit_jax.pretrained import orbax
from vit_jax.pretrained.formats import read_arrays, read_checkpoint, read_class_names, write_arrays
from vit_jax.pretrained.metadata import Metadata
from vit_jax.training.checkpoint import Checkpoints

DATA = FILES
MODEL = create_model(
  'ViT-Ti/8', hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2, num_classes=10, image_size=32
)


def save_steps(workdir, params, steps):
  """Save checkpoints as a training run does."""
  (workdir / 'checkpoints').mkdir(parents=True)
  checkpoints = Checkpoints(workdir / 'checkpoints')
  for step in steps:
    scaled = jax.tree.map(lambda x, step=step: jnp.asarray(x) * step, params)
    state = {
      'step': jnp.int32(step),
      'params': scaled,
      'opt_state': [{'mu': jax.tree.map(jnp.zeros_like, params)}],
    }
    checkpoints.save(step, state, {'model': 'ViT-Ti/8', 'class_names': list('abcdefghij')})
  checkpoints.close()
  return workdir


def test_a_training_run_is_read_at_any_level(tmp_path):
  params = load_params(DATA / 'vit_token.npz', MODEL)
  run = save_steps(tmp_path / 'run', params, [9, 10])
  for path, step in ((run, 10), (run / 'checkpoints', 10), (run / 'checkpoints' / '9', 9)):
    loaded = load_params(path, MODEL)
    np.testing.assert_equal(loaded, jax.tree.map(lambda x, step=step: x * np.float32(step), params))
    assert read_class_names(path) == list('abcdefghij')
  assert read_checkpoint(run).metadata.model == 'ViT-Ti/8'
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(loaded))


def test_what_is_written_holds_parameters_and_what_was_said_of_them(tmp_path):
  params = load_params(DATA / 'vit_token.npz', MODEL)
  save_params(params, tmp_path / 'p', model=MODEL.clone(activation='gelu'), class_names=['a'] * 10)
  metadata = read_checkpoint(tmp_path / 'p').metadata
  assert metadata == Metadata(
    activation='gelu',
    norm_eps=1e-6,
    head='token',
    pos_embedding='learned',
    pos_embedding_at='stem',
    image_size=(32, 32),
    class_names=['a'] * 10,
    format='orbax',
  )
  doubled = jax.tree.map(lambda x: 2 * x, params)
  save_params(jax.device_put(doubled), tmp_path / 'p')  # replaces the directory
  np.testing.assert_equal(load_params(tmp_path / 'p', MODEL), doubled)


@pytest.mark.parametrize('kind', ['run', 'params'])
def test_a_flipped_byte_is_found_and_named(tmp_path, kind):
  values = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
  if kind == 'run':
    path = save_steps(tmp_path / 'run', {'w': values}, [3]) / 'checkpoints' / '3'
  else:
    path = tmp_path / 'p'
    write_arrays({'w': values}, path)
  assert read_arrays(path)['w'].shape == (300, 300)
  file = max(
    (path / ('state' if kind == 'run' else 'params')).glob('**/d/*'), key=lambda p: p.stat().st_size
  )
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)
  with pytest.raises(ValueError, match=f'[Tt]he checkpoint {path}.* is damaged'):
    read_arrays(path)


def test_a_lost_or_changed_record_is_found(tmp_path):
  write_arrays({'w': np.ones(4, np.float32)}, tmp_path / 'p')
  meta = tmp_path / 'p' / 'meta' / 'metadata'
  said = json.loads(meta.read_text())
  meta.write_text(json.dumps(said | {'fingerprint': {'w': said['fingerprint']['w'] + 1}}))
  with pytest.raises(
    ValueError, match='is damaged: w changed after it was saved. Use another checkpoint.'
  ):
    read_arrays(tmp_path / 'p')
  meta.unlink()
  with pytest.raises(
    ValueError, match=f'Cannot read the checkpoint {tmp_path}/p: it is damaged .*. Use another'
  ):
    read_arrays(tmp_path / 'p')


@pytest.mark.parametrize('part', ['_read_meta', '_restore'])
def test_only_damage_is_blamed_on_the_checkpoint(tmp_path, monkeypatch, part):
  params = load_params(DATA / 'vit_token.npz', MODEL)
  save_params(params, tmp_path / 'p', model=MODEL)
  for error, words in (
    (MemoryError('Unable to allocate 9 GiB'), None),
    (RuntimeError("Unable to initialize backend 'cuda': no device"), None),
    (RuntimeError("can't start new thread"), None),
    (ModuleNotFoundError("No module named 'gcsfs'", name='gcsfs'), None),
    (
      PermissionError(13, 'Permission denied'),
      f'Cannot read the checkpoint {tmp_path}/p: Permission denied. Correct that and run the same '
      'command again.',
    ),
    (
      KeyError('x'),
      f"Cannot read the checkpoint {tmp_path}/p: it is damaged ('x'). Use another checkpoint.",
    ),
  ):

    def fail(path, error=error):
      raise error

    monkeypatch.setattr(orbax, part, fail)
    with pytest.raises(Exception) as read:
      orbax.read_orbax(epath.Path(tmp_path / 'p'))
    assert read.value is error if words is None else str(read.value) == words


def test_no_directory_of_another_kind_is_replaced(tmp_path):
  run = save_steps(tmp_path / 'run', {'w': np.ones(4, np.float32)}, [3])
  for path in (run, run / 'checkpoints', run / 'checkpoints' / '3'):
    with pytest.raises(
      ValueError, match='already exists and is not a directory of parameters. Choose another path.'
    ):
      write_arrays({'w': np.ones(4, np.float32)}, path)
  assert read_arrays(run)['w'].tolist() == [3, 3, 3, 3]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
  write_arrays({'w': np.ones(4, np.float32)}, tmp_path / 'p')

  def full(self, *args, **kwargs):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(ocp.Checkpointer, 'save', full)
  with pytest.raises(
    ValueError, match='Cannot write .*/p: No space left on device. Choose another path.'
  ):
    write_arrays({'w': np.zeros(4, np.float32)}, tmp_path / 'p')
  assert read_arrays(tmp_path / 'p')['w'].tolist() == [1, 1, 1, 1]
  assert [p.name for p in tmp_path.iterdir()] == ['p']


def test_relative_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write_arrays({'w': np.ones(4, np.float32)}, 'p')
  assert read_arrays('p')['w'].tolist() == [1, 1, 1, 1]


def test_a_run_that_saved_nothing_is_no_checkpoint(tmp_path):
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(
    ValueError, match='has no checkpoint. Give a directory with model.safetensors, or'
  ):
    read_arrays(tmp_path)
