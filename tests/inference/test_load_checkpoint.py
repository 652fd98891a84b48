"""Arguments decide how a checkpoint is loaded, or else its run, or else its arrays."""

import json

import jax
import numpy as np
import pytest

from tests.helpers.paths import FILES
from vit_jax import create_model, load_params, save_params
from vit_jax.errors import InputError
from vit_jax.inference.load_checkpoint import checkpoint_run, load_checkpoint
from vit_jax.training.checkpoint import Checkpoints

SIZES = dict(hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2)
CHECKPOINT = str(FILES / 'vit_token.npz')


@pytest.fixture(scope='module')
def params():
  return load_params(CHECKPOINT, create_model('ViT-Ti/8', num_classes=10, image_size=32, **SIZES))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, params):
  """Return a run in bfloat16 with the exact GELU, which cannot be inferred from its arrays."""
  workdir = tmp_path_factory.mktemp('run')
  config = dict(model='ViT-Ti/8', dataset='digits', image_size=32, activation='gelu', **SIZES)
  config |= dict(dtype='bfloat16', attention_implementation='cudnn')
  (workdir / 'config.json').write_text(json.dumps(config))
  (workdir / 'checkpoints').mkdir()
  checkpoints = Checkpoints(workdir / 'checkpoints')
  checkpoints.save(7, {'params': params}, {'model': 'ViT-Ti/8', 'class_names': ['yes', 'no']})
  checkpoints.close()
  return workdir


def test_a_file(params):
  loaded, run = load_checkpoint(CHECKPOINT)
  assert run is None and checkpoint_run(CHECKPOINT) is None
  assert (loaded.model.image_size, loaded.model.num_classes) == ((32, 32), 10)
  assert loaded.model.dtype == np.float32 and loaded.class_names is None
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_arguments():
  loaded, _ = load_checkpoint(
    CHECKPOINT, image_size=(16, 48), overrides={'activation': 'quick_gelu'}, dtype='bfloat16'
  )
  assert (loaded.model.image_size, loaded.model.activation) == ((16, 48), 'quick_gelu')
  assert loaded.model.dtype == 'bfloat16'
  with pytest.raises(InputError, match='does not fit the model'):
    load_checkpoint(CHECKPOINT, model='ViT-B/16')


def test_a_run(workdir):
  for path in (workdir, workdir / 'checkpoints', workdir / 'checkpoints' / '7'):
    loaded, run = load_checkpoint(str(path))
    assert (loaded.model.activation, loaded.model.dtype) == ('gelu', 'bfloat16')
    assert loaded.model.attention_implementation is None  # this machine may be another
    assert loaded.class_names == ['yes', 'no']
    assert run.config['dataset'] == checkpoint_run(str(path)).config['dataset'] == 'digits'
  loaded, _ = load_checkpoint(str(workdir), overrides={'activation': 'gelu_tanh'}, dtype='float32')
  assert (loaded.model.activation, loaded.model.dtype) == ('gelu_tanh', 'float32')


def test_a_head_of_zeros(params, tmp_path, caplog):
  load_checkpoint(CHECKPOINT)
  assert not caplog.messages
  zeros = jax.tree.map(np.zeros_like, params['head'])
  save_params(params | {'head': zeros}, tmp_path / 'a.npz')
  load_checkpoint(str(tmp_path / 'a.npz'))
  assert caplog.messages == [
    f'The head of {tmp_path}/a.npz is all zeros, as in the original ImageNet-21k checkpoints. It '
    'was not trained, so its predictions are meaningless.'
  ]
