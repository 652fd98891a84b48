import json

import numpy as np
import pytest

from tests.helpers.paths import FILES
from vit_jax.pretrained.formats import read_arrays, read_checkpoint, write_arrays
from vit_jax.pretrained.metadata import Metadata
from vit_jax.tools import convert

DATA = FILES


def test_around_every_format_and_back(tmp_path, capsys):
  steps = [
    ('a', '--to=hf'),
    ('b', '--to=timm'),
    ('c.safetensors', '--to=hf'),
    ('d', '--to=orbax'),
    ('e', None),
    ('f.npz', None),
  ]
  path = DATA / 'vit_token.npz'
  for name, *options in steps:
    assert convert.main([str(path), str(tmp_path / name), *filter(None, options)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f'Read {path} (') and out[0].endswith(
      ', 40 arrays, 24,234 parameters).'
    )
    kind = options[0].split('=')[1] if options[0] else {'e': 'orbax', 'f.npz': 'npz'}[name]
    assert out[1] == f'Wrote {tmp_path / name} ({kind}, the same values).'
    assert out[2:] == (
      ["Note: Assumed activation='gelu_tanh', norm_eps=1e-06, as in the published models."]
      if name == 'a'
      else []
    )
    path = tmp_path / name
  old, new = np.load(DATA / 'vit_token.npz'), np.load(path)
  assert set(old.files) == set(new.files)
  assert all(old[k].tobytes() == new[k].tobytes() for k in old.files)


def test_spellings(tmp_path):
  assert (
    convert.main([str(DATA / 'vit_token.npz'), str(tmp_path / 'a.npz'), '--spelling=linen']) == 0
  )
  assert set(np.load(tmp_path / 'a.npz').files) == set(np.load(DATA / 'vit_token.linen.npz').files)


def test_nothing_is_overwritten_unless_forced(tmp_path, capsys):
  path = tmp_path / 'a.npz'
  path.write_text('precious')
  source = str(DATA / 'vit_gap.npz')
  assert convert.main([source, str(path)]) == 1
  assert (
    'error: ' in (err := capsys.readouterr().err)
    and 'a.npz already exists. Choose another path, or replace it with --force.' in err
  )
  assert path.read_text() == 'precious'
  assert convert.main([source, str(path), '--force']) == 0
  np.testing.assert_equal(read_arrays(path), read_arrays(source))


def test_what_the_source_does_not_tell_can_be_given(tmp_path, capsys):
  bare = tmp_path / 'bare.safetensors'
  bare.write_bytes((DATA / 'timm_tiny' / 'model.safetensors').read_bytes())
  to = [str(bare), str(tmp_path / 'x'), '--to=hf']
  assert convert.main(to) == 1
  assert 'no usual number is known for width 32. Give num_heads' in capsys.readouterr().err
  assert convert.main([*to, '--num_heads=2']) == 1
  assert 'Give --activation=gelu, ' in capsys.readouterr().err
  assert convert.main([*to, '--num_heads=2', '--activation=gelu', '--norm_eps=1e-5']) == 0
  config = json.loads((tmp_path / 'x' / 'config.json').read_text())
  assert (config['hidden_act'], config['layer_norm_eps'], config['num_attention_heads']) == (
    'gelu',
    1e-5,
    2,
  )


def test_what_npz_loses_is_said(tmp_path, capsys):
  arrays, metadata = read_checkpoint(DATA / 'hf_tiny')
  write_arrays(
    arrays, tmp_path / 'x', 'hf', metadata=metadata._replace(class_names=list('abcdefghij'))
  )
  assert convert.main([str(tmp_path / 'x'), str(tmp_path / 'a.npz')]) == 0
  assert capsys.readouterr().out.splitlines()[-1] == (
    "Note: npz does not keep activation='gelu', norm_eps=1e-12, the class names."
  )


def test_an_image_size_for_a_grid_that_is_not_square(tmp_path, capsys):
  arrays = read_arrays(DATA / 'vit_token.npz')
  name = 'Transformer/posembed_input/pos_embedding'
  arrays[name] = arrays[name][:, :9]
  write_arrays(arrays, tmp_path / 'a.npz')
  to = [str(tmp_path / 'a.npz'), str(tmp_path / 'x'), '--to=hf']
  assert convert.main(to) == 1
  assert 'The 8 positions do not make a square grid.' in capsys.readouterr().err
  assert convert.main([*to, '--image_size=16,32']) == 0
  assert json.loads((tmp_path / 'x' / 'config.json').read_text())['image_size'] == [16, 32]


def test_names_that_do_not_fit_the_head_are_left_out_and_said(tmp_path, capsys):
  write_arrays(
    read_arrays(DATA / 'vit_token.npz'),
    tmp_path / 'run',
    metadata=Metadata(class_names=['cat', 'dog']),
  )
  assert convert.main([str(tmp_path / 'run'), str(tmp_path / 'x'), '--to=timm']) == 0
  assert capsys.readouterr().out.splitlines()[-1] == (
    'Note: Dropped the 2 class names, because the head has 10 outputs.'
  )
  assert read_checkpoint(tmp_path / 'x').metadata.class_names is None


@pytest.mark.parametrize(
  'arguments, words',
  [
    (
      ['bit_v2.npz', 'x', '--to=hf'],
      'PyTorch formats hold only plain Vision Transformers, not BiT ResNets',
    ),
    (
      ['vit_gap.npz', 'x', '--to=hf'],
      "No model of transformers has head='gap'. Write npz or orbax instead",
    ),
    (['hf_tiny', 'x', '--to=timm'], 'timm has no config for norm_eps=1e-12'),
    (['vit_gap.npz', 'x.safetensors'], 'Give the format: timm or hf.'),
    (['none.npz', 'x'], 'none.npz: no such file. Check the path.'),
  ],
)
def test_errors_are_one_sentence(tmp_path, capsys, arguments, words):
  source, target, *options = arguments
  assert convert.main([str(DATA / source), str(tmp_path / target), *options]) == 1
  said = capsys.readouterr()
  assert said.out == '' and said.err.startswith('error: ') and words in said.err
  assert said.err.count('\n') == 1 and not list(tmp_path.iterdir())
