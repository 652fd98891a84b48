"""BiT and the ResNets of hybrids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.paths import FILES
from vit_jax import create_model, load_params
from vit_jax.models.resnet import BiT, standardize
from vit_jax.models.sizes import ResNet, Variant
from vit_jax.models.vit import VisionTransformer
from vit_jax.pretrained.load import abstract_params

MINI = Variant(32, 64, 2, 2)
REFERENCES = {
  'hybrid_1_1': VisionTransformer(MINI, 1, (64, 64), 10, ResNet((1, 2), 32)),
  'hybrid_stem': VisionTransformer(MINI, 8, (64, 64), 10, ResNet((), 32)),
  'bit_v2': BiT(ResNet((1, 2), 32), (64, 64), 10),
}


@pytest.mark.parametrize('name', REFERENCES)
def test_logits_equal_the_original_implementation(name):
  params = load_params(FILES / f'{name}.npz', REFERENCES[name])
  reference = np.load(FILES / f'{name}.io.npz')
  logits = jax.jit(REFERENCES[name].apply)({'params': params}, reference['image'])
  np.testing.assert_allclose(logits, reference['logits'], rtol=0, atol=2e-5)


@pytest.mark.parametrize('name', REFERENCES)
def test_bfloat16_stays_near_float32(name):
  params = load_params(FILES / f'{name}.npz', REFERENCES[name])
  images = np.load(FILES / f'{name}.io.npz')['image']
  full = REFERENCES[name].apply({'params': params}, images)
  half = REFERENCES[name].clone(dtype=jnp.bfloat16).apply({'params': params}, images)
  assert half.dtype == jnp.float32
  assert 1e-6 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


@pytest.mark.parametrize('v2', [False, True])
def test_standardized_kernels(v2):
  kernel = jax.random.normal(jax.random.key(0), (3, 3, 8, 5)) * 7 + 2
  options = dict(eps=1e-10, eps_in_root=True) if v2 else dict(eps=1e-5, eps_in_root=False)
  got = standardize(kernel, **options)
  np.testing.assert_allclose(got.mean(axis=(0, 1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(got.std(axis=(0, 1, 2)), 1, atol=1e-5)
  np.testing.assert_allclose(standardize(3 * kernel - 1, **options), got, atol=1e-4)
  constant = standardize(jnp.ones((1, 1, 4, 2)), **options)
  assert np.all(constant == 0)  # not NaN


@pytest.mark.parametrize(
  'name, overrides, units, patch, grid',
  [
    ('R50+ViT-B/16', {}, (3, 4, 9), 1, (14, 14)),  # stage 4 moved into stage 3
    ('R50+ViT-L/16', {}, (3, 4, 9), 1, (14, 14)),
    ('R50+ViT-L/32', {}, (3, 4, 6, 3), 1, (7, 7)),
    ('R50+ViT-B/32', {}, (3, 4, 6, 3), 1, (7, 7)),
    ('R50+ViT-B/32', {'resnet_stages': 3}, (3, 4, 9), 2, (7, 7)),
    ('R26+ViT-S/32', {}, (2, 2, 2, 2), 1, (7, 7)),
    ('R26+ViT-Ti/16', {}, (2, 2, 4), 1, (14, 14)),
    ('R101+ViT-H/64', {'image_size': 256}, (3, 4, 23, 3), 2, (4, 4)),
    ('R+ViT-Ti/16', {}, (), 8, (7, 7)),
  ],
)
def test_both_modes_of_a_hybrid(name, overrides, units, patch, grid):
  model = create_model(name, num_classes=10, **overrides)
  assert (model.resnet.units, model.patch_size, model.grid) == (units, patch, grid)
  shape = abstract_params(model)['Transformer']['posembed_input']['pos_embedding'].shape
  assert shape[1] == 1 + grid[0] * grid[1]


def test_bit_takes_any_image_size():
  model = REFERENCES['bit_v2']
  params = load_params(FILES / 'bit_v2.npz', model)
  images = np.load(FILES / 'bit_v2.io.npz')['image']
  logits = model.apply({'params': params}, np.pad(images, ((0, 0), (0, 32), (0, 7), (0, 0))))
  assert logits.shape == (2, 10)


def test_no_head_gives_the_representation():
  for name, model in REFERENCES.items():
    params = dict(load_params(FILES / f'{name}.npz', model))
    images = np.load(FILES / f'{name}.io.npz')['image']
    logits = model.apply({'params': params}, images)
    if name == 'bit_v2':
      params['resnet'] = dict(params['resnet'])
      head = params['resnet'].pop('head')['conv2d']
    else:
      head = params.pop('head')
    features = model.clone(num_classes=0).apply({'params': params}, images)
    kernel = head['kernel'].reshape(-1, 10)
    np.testing.assert_allclose(features @ kernel + head['bias'], logits, atol=1e-5)
