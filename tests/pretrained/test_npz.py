import io
import logging
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.paths import FILES
from vit_jax.errors import InputError
from vit_jax.pretrained.formats import read_arrays, write_arrays

DATA = FILES
BLOCK = 'Transformer/encoderblock_1/'


@pytest.mark.parametrize(
  'file',
  [
    'vit_token.npz',
    'vit_token.linen.npz',
    'vit_gap.npz',
    'vit_pre_logits.npz',
    'hybrid_1_1.npz',
    'hybrid_stem.npz',
    'bit_v2.npz',
  ],
)
def test_published_files_are_written_as_they_were(tmp_path, file):
  path = tmp_path / 'copy.npz'
  write_arrays(read_arrays(DATA / file), path, spelling='linen' if 'linen' in file else 'pre_linen')
  old, new = np.load(DATA / file), np.load(path)
  assert set(old.files) == set(new.files)
  for name in old.files:
    assert old[name].shape == new[name].shape and old[name].tobytes() == new[name].tobytes()


def save(path, arrays):
  np.savez(path, **arrays)
  return path


@pytest.mark.parametrize('prefix', ['', 'params/', 'opt/target/', 'params/img/'])
def test_prefixes(tmp_path, prefix, caplog):
  caplog.set_level(logging.WARNING, 'vit_jax')
  others = {
    'params/img/': 'params/txt/head/kernel',
    'opt/target/': 'opt/state/step',
    'params/': 'opt/count',
  }
  arrays = {prefix + k: v for k, v in np.load(DATA / 'vit_token.npz').items()}
  if prefix:
    arrays[others[prefix]] = np.int32(7)  # other content of such a file
  read = read_arrays(save(tmp_path / 'a.npz', arrays))
  expected = read_arrays(DATA / 'vit_token.npz')
  np.testing.assert_equal(read, expected)
  said = [r.getMessage() for r in caplog.records]
  assert said == (
    [f'{tmp_path}/a.npz: Read only {prefix}... and ignored {others[prefix]}.'] if prefix else []
  )


def test_scanned_blocks_are_taken_apart():
  stacked = np.load(DATA / 'dialect2_gap_scan.npz')
  arrays = read_arrays(DATA / 'dialect2_gap_scan.npz')
  np.testing.assert_array_equal(
    arrays[f'{BLOCK}MlpBlock_0/Dense_0/kernel'],
    stacked['params/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel'][1],
  )
  assert sum('encoderblock_' in name for name in arrays) == 3 * 16
  assert 'Transformer/encoderblock/LayerNorm_0/bias' not in arrays


def test_root_positions_get_a_row_of_zeros_for_a_class_token():
  name = 'Transformer/posembed_input/pos_embedding'
  token, gap = (read_arrays(DATA / f'dialect2_{kind}.npz')[name] for kind in ('tok', 'gap'))
  assert token.shape == (1, 17, 32) and not token[:, 0].any() and token[:, 1:].all()
  assert gap.shape == (1, 16, 32)


def test_numbered_convolutions_of_bit_files(tmp_path):
  arrays = dict(np.load(DATA / 'bit_v2.npz'))
  kernels = [k for k in arrays if 'standardized_conv2d' in k]
  numbered = {
    k.replace('conv2d', f'conv2d_{kernels.index(k)}') if k in kernels else k: v
    for k, v in arrays.items()
  }
  np.testing.assert_equal(
    read_arrays(save(tmp_path / 'a.npz', numbered)), read_arrays(DATA / 'bit_v2.npz')
  )
  twice = arrays | {kernels[0].replace('conv2d', 'conv2d_3'): arrays[kernels[0]]}
  with pytest.raises(
    ValueError, match='a.npz has .*standardized_conv2d/kernel twice, in two spellings. Remove'
  ):
    read_arrays(save(tmp_path / 'a.npz', twice))


@pytest.mark.parametrize('dtype', [np.float16, np.float64, jnp.bfloat16])
def test_other_precisions_become_float32(tmp_path, dtype):
  arrays = {k: v.astype(dtype) for k, v in np.load(DATA / 'vit_gap.npz').items()}
  read = read_arrays(save(tmp_path / 'a.npz', arrays))
  assert {x.dtype for x in read.values()} == {np.dtype(np.float32)}
  np.testing.assert_array_equal(read['head/kernel'], arrays['head/kernel'].astype(np.float32))
  with pytest.raises(
    ValueError,
    match='Cannot use .*a.npz: cls holds int64, but parameters are floating-point numbers.',
  ):
    read_arrays(save(tmp_path / 'a.npz', {'cls': np.zeros(3, np.int64)}))


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'<html>not found</html>',
    'truncated',
    'flipped',
    'pickled',
    'no archive',
    'empty archive',
  ],
)
def test_damaged_files_are_named(tmp_path, content):
  path = tmp_path / 'bad.npz'
  good = (DATA / 'vit_token.npz').read_bytes()
  if content == 'truncated':
    content = good[: len(good) // 2]
  elif content == 'flipped':
    content = bytearray(good)
    content[len(good) // 3] ^= 16
  elif content == 'pickled':
    content = save(path, {'cls': np.array([{}], dtype=object)}).read_bytes()
  elif content == 'no archive':
    with open(path, 'wb') as f:
      np.save(f, np.zeros(3))
    content = path.read_bytes()
  elif content == 'empty archive':
    content = save(path, {}).read_bytes()
  path.write_bytes(content)
  with pytest.raises(
    ValueError, match='Cannot read .*bad.npz as an npz file of arrays: .*. Download it again.'
  ):
    read_arrays(path)


def test_a_file_of_pytorch_is_not_opened(tmp_path):
  import zipfile

  for name in ('a.pth', 'a.bin', 'a.npz'):
    with zipfile.ZipFile(tmp_path / name, 'w') as archive:
      archive.writestr('archive/data.pkl', b'\x80\x02}q\x00.')
    with pytest.raises(
      ValueError, match=f'{name} is a PyTorch pickle.* Convert it to safetensors.'
    ):
      read_arrays(tmp_path / name)


def test_unknown_spelling(tmp_path):
  with pytest.raises(ValueError, match="Unknown spelling 'old'. Available: pre_linen, linen."):
    write_arrays({'cls': np.zeros(3, np.float32)}, tmp_path / 'a.npz', spelling='old')


def test_a_header_that_claims_too_much_is_damage_and_takes_no_memory(tmp_path):
  member = io.BytesIO()
  header = {'descr': '<f4', 'fortran_order': False, 'shape': (10**12,)}
  np.lib.format.write_array_header_1_0(member, header)
  member.write(bytes(4000))
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
    archive.writestr('x.npy', member.getvalue())
  with pytest.raises(InputError) as error:
    read_arrays(tmp_path / 'a.npz')
  assert str(error.value) == (
    f'Cannot read {tmp_path}/a.npz as an npz file of arrays: x.npy claims the shape '
    '(1000000000000,), which is more than the file holds. Download it again.'
  )


def test_only_damage_is_blamed_on_the_file(monkeypatch):
  path = DATA / 'vit_token.npz'
  error = MemoryError('Unable to allocate 9 GiB')
  monkeypatch.setattr(np, 'load', lambda *_, **__: (_ for _ in ()).throw(error))
  with pytest.raises(MemoryError):
    read_arrays(path)
  error = PermissionError(13, 'Permission denied')
  with pytest.raises(InputError) as read:
    read_arrays(path)
  assert str(read.value) == (
    f'Cannot read {path} as an npz file of arrays: Permission denied. Check its permissions and '
    'its disk.'
  )
