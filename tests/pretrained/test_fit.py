import jax
import numpy as np
import pytest

from tests.helpers.paths import FILES
from tests.helpers.tiny_models import assert_same_bits, mini, random_params, tiny
from vit_jax import load_params, save_params
from vit_jax.pretrained.fit import fit
from vit_jax.pretrained.formats import read_arrays
from vit_jax.pretrained.metadata import EMPTY
from vit_jax.pretrained.posembed import resize_posembed

DATA = FILES


def test_every_misfit_is_listed_at_once():
  with pytest.raises(ValueError) as e:
    load_params(DATA / 'vit_pre_logits.npz', mini(head='gap'))
  for words in (
    'vit_pre_logits.npz',
    'extra cls (1, 1, 32)',
    'extra pre_logits/kernel (32, 48)',
    'head/kernel is (48, 10), the model has (32, 10)',
    'pos_embedding is (1, 17, 32), the model has (1, 16, 32)',
  ):
    assert words in str(e.value)
  with pytest.raises(ValueError, match=r'missing pre_logits/bias \(32,\)'):
    load_params(DATA / 'vit_token.npz', mini(representation_size=32))


def test_a_long_list_of_misfits_is_cut_with_a_count():
  with pytest.raises(
    ValueError, match=r'Differences: missing Transformer/encoderblock_2/.* and 22 more.$'
  ) as e:
    load_params(DATA / 'vit_token.npz', mini(num_layers=4))
  assert str(e.value).count('missing') == 10


@pytest.mark.parametrize(
  'file, model', [('vit_gap.npz', mini()), ('dialect2_gap.npz', mini(mlp_dim=128, num_layers=1))]
)
def test_a_token_model_refuses_the_file_of_a_gap_model(file, model):
  with pytest.raises(ValueError, match=r'missing cls \(1, 1, 32\)'):
    load_params(DATA / file, model)


def test_another_number_of_classes_gets_a_new_head_and_says_so(warnings):
  params = load_params(DATA / 'vit_token.npz', mini(num_classes=3, head_bias_init=-2.0))
  head, old = params.pop('head'), load_params(DATA / 'vit_token.npz', mini())
  assert not head['kernel'].any() and head['kernel'].shape == (32, 3)
  assert head['bias'].tolist() == [-2, -2, -2]
  del old['head']
  assert_same_bits(params, old)
  assert warnings() == [
    f'{DATA / "vit_token.npz"}: Replaced the head of 10 classes with a new head of 3 classes, '
    'initialized to zero.'
  ]


def test_a_new_head_can_be_asked_for(warnings):
  """Classes may differ even if their number is equal. Both layers of a pretraining head go."""
  head = load_params(DATA / 'vit_token.npz', mini(), new_head=True)['head']
  assert head['kernel'].shape == (32, 10) and not head['kernel'].any()
  params = load_params(DATA / 'vit_pre_logits.npz', mini(), new_head=True)
  assert 'pre_logits' not in params and not params['head']['kernel'].any()
  assert 'Replaced the head of 10 classes with a new head of 10 classes, init' in warnings()[0]
  assert warnings()[1].endswith('zero. Dropped the pre_logits layer.')


def test_pre_logits_go_with_the_head_and_only_then(warnings):
  params = load_params(DATA / 'vit_pre_logits.npz', mini(num_classes=3))
  assert 'pre_logits' not in params and params['head']['kernel'].shape == (32, 3)
  assert warnings()[0].endswith('initialized to zero. Dropped the pre_logits layer.')
  with pytest.raises(ValueError, match='extra pre_logits/bias'):
    load_params(DATA / 'vit_pre_logits.npz', mini())
  kept = load_params(DATA / 'vit_pre_logits.npz', mini(num_classes=3, representation_size=48))
  assert kept['pre_logits']['kernel'].shape == (32, 48)
  assert kept['head']['kernel'].shape == (48, 3)


def test_a_model_without_a_head_drops_the_files(warnings):
  model = mini(num_classes=0)
  params = load_params(DATA / 'vit_token.npz', model)
  assert 'head' not in params
  assert warnings() == [f'{DATA / "vit_token.npz"}: Dropped the head of 10 classes.']
  reference = np.load(DATA / 'vit_token.io.npz')
  np.testing.assert_allclose(
    model.apply({'params': params}, reference['image']),
    reference['tap:pre_logits'],
    rtol=0,
    atol=2e-5,
  )


def test_a_backbone_gets_a_fresh_head(warnings):
  model = tiny(registers=3, layer_scale=1.0, activation='gelu', num_classes=4)
  params = load_params(DATA / 'dinov2_tiny', model)
  assert not params['head']['kernel'].any() and params['head']['kernel'].shape == (16, 4)
  assert warnings()[-1] == (
    f'{DATA / "dinov2_tiny"}: Added a new head of 4 classes, initialized to zero.'
  )


def test_the_head_of_a_bit_resnet_is_swapped_too():
  arrays = read_arrays(DATA / 'bit_v2.npz')
  assert arrays['resnet/head/conv2d/kernel'].shape == (1, 1, 256, 10)

  want = {
    k: jax.ShapeDtypeStruct((*v.shape[:-1], 3) if 'head' in k else v.shape, v.dtype)
    for k, v in arrays.items()
  }
  fitted = fit(arrays, want, None, EMPTY, 'bit_v2.npz')
  assert not fitted['resnet/head/conv2d/kernel'].any()
  assert fitted['resnet/head/conv2d/kernel'].shape == (1, 1, 256, 3)


def test_positions_are_resized_to_another_grid_and_say_so(warnings):
  file = DATA / 'vit_token.npz'
  params = load_params(file, mini(image_size=(48, 64)))
  positions = params['Transformer']['posembed_input']['pos_embedding']
  old = read_arrays(file)['Transformer/posembed_input/pos_embedding']
  np.testing.assert_array_equal(positions, resize_posembed(old, (6, 8)))
  assert warnings() == [
    f'{file}: Resized the position embedding from 4x4 patches to a grid of 6x8 patches.'
  ]


@pytest.mark.parametrize(
  'overrides, name',
  [(dict(pos_embedding='learned2d'), 'rows'), (dict(pos_embedding_at='every'), 'pos_embedding')],
)
def test_other_learned_positions_are_resized_too(tmp_path, warnings, overrides, name):
  params = random_params(tiny(**overrides))
  save_params(params, tmp_path / 'a.npz')
  new = load_params(tmp_path / 'a.npz', tiny(image_size=(28, 16), **overrides))
  module = new['Transformer']
  module = module if name == 'rows' else module['encoderblock_1']
  shape = {'rows': (7, 8), 'pos_embedding': (1, 29, 16)}[name]
  assert module['posembed_input'][name].shape == shape
  assert warnings()[-1].endswith('to a grid of 7x4 patches.')


def test_a_recorded_image_size_tells_grids_of_one_length_apart(tmp_path, warnings):
  wide, high = tiny(image_size=(8, 32)), tiny(image_size=(32, 8))
  params = random_params(wide)
  save_params(params, tmp_path / 'wide', 'timm', model=wide)
  new = load_params(tmp_path / 'wide', high)['Transformer']['posembed_input']['pos_embedding']
  assert not np.array_equal(new, params['Transformer']['posembed_input']['pos_embedding'])
  assert 'from 2x8 patches to a grid of 8x2 patches.' in warnings()[-1]
  assert_same_bits(load_params(tmp_path / 'wide', wide), params)
  save_params(params, tmp_path / 'unknown.npz')
  assert_same_bits(load_params(tmp_path / 'unknown.npz', high), params)
  assert warnings()[-1].endswith('Assumed that its 16 positions are a grid of 8x2.')
