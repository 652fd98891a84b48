import json

import numpy as np
import pytest

from tests.helpers.paths import FILES
from vit_jax.errors import InputError
from vit_jax.pretrained.convert import convert
from vit_jax.pretrained.formats import read_checkpoint
from vit_jax.pretrained.metadata import Metadata

DATA = FILES


def test_known_properties_win_over_recorded_ones(tmp_path):
  known = Metadata(activation='quick_gelu', norm_eps=1e-5, image_size=(32, 32))
  lines = convert(DATA / 'hf_tiny', tmp_path / 'x', 'timm', known=known)
  assert lines == [
    f'Read {DATA / "hf_tiny"} (hf, 56 arrays, 32,778 parameters).',
    f'Wrote {tmp_path / "x"} (timm, the same values).',
  ]
  arrays, metadata = read_checkpoint(tmp_path / 'x')
  np.testing.assert_equal(arrays, read_checkpoint(DATA / 'hf_tiny').arrays)
  assert (metadata.activation, metadata.norm_eps) == ('quick_gelu', 1e-5)
  config = json.loads((tmp_path / 'x' / 'config.json').read_text())
  assert config['model_args']['img_size'] == [32, 32]


def test_nothing_is_replaced_unless_forced(tmp_path):
  path = tmp_path / 'a.npz'
  path.write_text('precious')
  with pytest.raises(InputError, match=f'^{path} already exists. Choose another path, or replace'):
    convert(DATA / 'vit_gap.npz', path)
  assert path.read_text() == 'precious'
  convert(DATA / 'vit_gap.npz', path, force=True)
  assert path.read_bytes()[:2] == b'PK'
