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
