import json
import shutil

import pytest

from tests.helpers.paths import FILES
from vit_jax.pretrained.formats import read_arrays
from vit_jax.pretrained.locate import locate
from vit_jax.pretrained.metadata import EMPTY

DATA = FILES


@pytest.mark.parametrize(
  'content, words',
  [
    (b'', 'as a checkpoint: it is empty. Download it again.'),
    (b'<html>not found</html>', 'as a checkpoint: it is a web page. Download it again.'),
    (b'\x80\x04K\x01.', 'is a PyTorch pickle, .* Convert it to safetensors.'),
    (b'hello, world, hello', 'is not a checkpoint of a known format. Give an npz file, a safe'),
  ],
)
def test_files_that_are_not_checkpoints(tmp_path, content, words):
  path = tmp_path / 'bad.ckpt'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'bad.ckpt.*{words}'):
    read_arrays(path)


def test_missing_files_and_empty_directories_are_named(tmp_path):
  for name in ('none.npz', 'none', 'none.safetensors'):
    with pytest.raises(ValueError, match=f'Cannot read .*{name}: no such file. Check the path.'):
      read_arrays(tmp_path / name)
  with pytest.raises(
    ValueError, match='has no checkpoint. Give a directory with model.safetensors, or one that'
  ):
    read_arrays(tmp_path)
  (tmp_path / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(
    ValueError, match='pytorch_model.bin is a PyTorch pickle.* Convert it to safetensors.'
  ):
    read_arrays(tmp_path)


def test_a_file_and_its_directory_are_one_checkpoint():
  with locate(DATA / 'vit_token.npz') as location:
    assert location == ('npz', [DATA / 'vit_token.npz'], EMPTY)
  for path in (DATA / 'hf_tiny', DATA / 'hf_tiny' / 'model.safetensors'):
    with locate(path) as (kind, paths, metadata):
      assert (kind, paths) == ('safetensors', [DATA / 'hf_tiny' / 'model.safetensors'])
      assert (metadata.num_heads, metadata.norm_eps, metadata.activation) == (4, 1e-12, 'gelu')


def test_a_run_says_how_its_model_is_used(tmp_path, caplog):
  """Checkpoints of earlier versions have this only in the config.json of the run."""
  workdir = shutil.copytree(DATA / 'earlier_run', tmp_path / 'run')
  for path in (workdir, workdir / 'checkpoints', workdir / 'checkpoints' / '4'):
    with locate(path) as location:
      metadata = location.metadata
    assert (metadata.preset, metadata.loss, metadata.image_size) == ('bit', 'softmax', (16, 16))
  config = json.loads((workdir / 'config.json').read_text()) | {'preset': 'inception'}
  (workdir / 'config.json').write_text(json.dumps(config))
  with locate(workdir) as location:  # its default was another one when the run was trained
    assert location.metadata.eval_filter == 'bilinear'
  (workdir / 'config.json').write_text('{"model": 3}')
  with locate(workdir) as location:
    assert location.metadata.preset is None and location.metadata.class_names
  assert caplog.messages == [
    f'{workdir}/config.json is not the config of a run: it does not name a model and a dataset. '
    'The checkpoint is read without it.'
  ]
