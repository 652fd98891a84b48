"""Compare operation counts with the traced program, the compiler and published figures."""

import math

import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import pytest

from vit_jax import create_model
from vit_jax.models.flops import forward_flops, train_flops
from vit_jax.models.sizes import ResNet

SMALL = dict(hidden_dim=24, mlp_dim=40, num_heads=2, num_layers=2)


def products(jaxpr):
  """Return the operations of all matrix products and convolutions of a traced program."""
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      terms = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
      total += 2 * equation.outvars[0].aval.size * terms
    elif name == 'conv_general_dilated':
      kernel = equation.invars[1].aval
      out_axis = params['dimension_numbers'].rhs_spec[0]
      total += 2 * equation.outvars[0].aval.size * kernel.size // kernel.shape[out_axis]
    else:
      times = params['length'] if name == 'scan' else 1
      total += times * sum(map(products, jaxprs_in_params(params)))
  return total


def abstract(model, batch_size=1):
  images = jax.ShapeDtypeStruct((batch_size, *model.image_size, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images), images


def traced(model, batch_size=1):
  return products(jax.make_jaxpr(model.apply)(*abstract(model, batch_size)).jaxpr)


@pytest.mark.parametrize(
  'name, image_size, overrides',
  [
    ('ViT-Ti/8', (32, 40), {}),
    ('ViT-Ti/8', (32, 40), dict(head='gap', registers=3, representation_size=12)),
    ('ViT-Ti/8', 32, dict(head='map', num_classes=0, qkv_bias=False, layer_scale=0.1)),
    ('ViT-Ti/8', (32, 48), dict(head='map', registers=1, representation_size=12)),
    ('ViT-Ti/8', 32, dict(pos_embedding='relative', registers=2)),
    ('ViT-Ti/8', 32, dict(pos_embedding='relative', pos_embedding_at='shared')),
    ('ViT-Ti/8', (32, 40), dict(head='gap', attention='axial')),
    ('ViT-Ti/8', (32, 40), dict(head='map', attention='axial', pos_embedding='relative')),
    ('R+ViT-Ti/16', (64, 96), {}),
    ('R26+ViT-S/32', (64, 96), dict(head='gap')),
    ('R50+ViT-B/16', 64, {}),
    ('R50+ViT-L/32', 64, dict(num_classes=0)),
  ],
  ids=str,
)
def test_counts_what_the_model_multiplies(name, image_size, overrides):
  overrides = SMALL | dict(num_classes=7) | overrides
  model = create_model(name, image_size=image_size, **overrides)
  assert forward_flops(model) == traced(model)
  assert train_flops(model) == 3 * forward_flops(model)


@pytest.mark.parametrize('image_size', [(64, 64), (75, 46)])
def test_counts_a_resnet_of_any_size(image_size):
  model = create_model('BiT-R50x1', num_classes=7, image_size=image_size)
  model = model.clone(resnet=ResNet((2, 1, 2, 1), 32))
  assert forward_flops(model) == traced(model)


def test_the_gradient_takes_twice_the_forward_pass():
  """The first layer is the exception, because the image needs no gradient."""
  model = create_model('ViT-Ti/8', num_classes=7, image_size=32, **SMALL)
  variables, images = abstract(model)
  gradient = jax.grad(lambda v, x: model.apply(v, x).sum())
  embedding = 2 * 16 * 8 * 8 * 3 * 24
  assert products(jax.make_jaxpr(gradient)(variables, images).jaxpr) == (
    train_flops(model) - embedding
  )


@pytest.mark.parametrize(
  'name, gigaflops',
  [
    # Twice the multiply-adds that were published with ViTs, ResNets and re-implementations.
    ('BiT-R50x1', 2 * 4.09),
    ('ViT-S/16', 2 * 4.61),
    ('ViT-B/32', 2 * 4.41),
    ('ViT-B/16', 2 * 17.58),
    ('ViT-L/16', 2 * 61.60),
    ('ViT-H/14', 2 * 167.4),
  ],
)
def test_published_counts(name, gigaflops):
  model = create_model(name, num_classes=1000)
  assert forward_flops(model) / 1e9 == pytest.approx(gigaflops, rel=0.01)


def test_vit_b16_by_hand():
  model = create_model('ViT-B/16', num_classes=1000)
  block = 197 * (4 * 768**2 + 2 * 768 * 3072) + 2 * 197**2 * 768
  assert forward_flops(model) == 2 * (196 * 768 * 768 + 12 * block + 768 * 1000) == 35_127_656_448
  assert train_flops(model) == 105_382_969_344


@pytest.mark.parametrize('name', ['ViT-B/16', 'R50+ViT-B/16'])
def test_the_compiler_counts_about_as_much(name):
  """The compiler adds elementwise work, and leaves out a convolution's products with padding."""
  model = create_model(name, num_classes=1000, num_layers=4)
  counted = jax.jit(model.apply).lower(*abstract(model)).cost_analysis()['flops']
  assert counted == pytest.approx(forward_flops(model), rel=0.01)
