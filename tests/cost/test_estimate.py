"""Our count of operations agrees with XLA's, and the cost of a run with arithmetic."""

import math

import jax
from jax import lax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import pytest

from vit_jax import create_model
from vit_jax.config.fields import default_config
from vit_jax.cost.estimate import device_days, estimate_run, get_device, implied_mfu
from vit_jax.errors import InputError
from vit_jax.models import dot_product_attention
from vit_jax.models.flops import train_flops
from vit_jax.models.resnet import BiT
from vit_jax.parallel.devices import DEVICES

TPU_V3 = DEVICES['TPU v3']


def pad_first(convolution):
  """Return the same convolution with its padding written into the image.

  XLA does not count the products with padding. We count them, as published figures do. With the
  zeros in the image, the function is the same and XLA counts them too.
  """

  def padded(x, kernel, strides, padding, **options):
    if isinstance(padding, str):
      padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return convolution(x, kernel, strides, 'VALID', **options)

  return padded


def equations(jaxpr, counts):
  """Count the matrix products and convolutions of a program without loops, by kind and shapes."""
  for equation in jaxpr.eqns:
    assert equation.primitive.name not in ('scan', 'while'), 'a loop, which XLA counts once'
    if equation.primitive.name in ('dot_general', 'conv_general_dilated'):
      key = str((equation.primitive, equation.params, [x.aval for x in equation.invars]))
      times, _ = counts.get(key, (0, None))
      counts[key] = times + 1, equation
    for inner in jaxprs_in_params(equation.params):
      equations(inner, counts)
  return counts


def xla_flops(function, *args):
  return jax.jit(function).lower(*args).cost_analysis()['flops']


def equation_flops(equation):
  """Return XLA's count of the operations of one equation."""
  shapes = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in equation.invars]
  return xla_flops(lambda *operands: equation.primitive.bind(*operands, **equation.params), *shapes)


def gradient(name, **overrides):
  """Return the model, the gradient of a training loss for one image, and its arguments' shapes."""
  model = create_model(name, num_classes=1000, **overrides)
  image = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), image)
  loss = lambda params, image: model.apply(params, image).sum()
  return model, jax.grad(loss), (params, image)


def first_layer(model):
  """Return the operations of the layer that sees the image, which needs no gradient."""
  h, w = model.image_size
  if isinstance(model, BiT) or model.resnet:
    return 2 * -(-h // 2) * -(-w // 2) * 7 * 7 * 3 * model.resnet.width
  return 2 * h * w * 3 * model.variant.hidden_dim


HEAVY = [
  pytest.param(x, marks=pytest.mark.slow)
  for x in (
    'ViT-L/32',
    'ViT-L/16',
    'ViT-H/14',
    'R50+ViT-L/32',
    'R50+ViT-L/16',
    'BiT-R101x1',
    'BiT-R152x1',
    'BiT-R50x2',
    'BiT-R152x2',
    'BiT-R152x4',
  )
]


@pytest.mark.parametrize(
  'name',
  [
    'ViT-Ti/16',
    'ViT-S/32',
    'ViT-S/16',
    'ViT-B/32',
    'ViT-B/16',
    'R50+ViT-B/32',
    'R50+ViT-B/16',
    'BiT-R50x1',
    *HEAVY,
  ],
)
def test_xla_counts_as_many_products_in_a_step(name, monkeypatch):
  """Full size and depth, no scan. The image needs no gradient, so the first layer counts less.

  XLA counts every operation, elementwise ones too. This compares its count of each matrix product
  and convolution of the step's program, compiled alone.
  """
  monkeypatch.setattr(lax, 'conv_general_dilated', pad_first(lax.conv_general_dilated))
  model, step, args = gradient(name)
  products = 0
  for times, equation in equations(jax.make_jaxpr(step)(*args).jaxpr, {}).values():
    products += times * equation_flops(equation)
  assert products == pytest.approx(train_flops(model) - first_layer(model), rel=1e-6)


@pytest.mark.parametrize(
  'name, image_size', [('ViT-B/16', 224), pytest.param('ViT-H/14', 224, marks=pytest.mark.slow)]
)
def test_xla_counts_a_whole_step_about_the_same(name, image_size):
  """Elementwise work is little in a ViT, so the whole step must be close to our count."""
  model, step, args = gradient(name, image_size=image_size)
  assert 1 < xla_flops(step, *args) / train_flops(model) < 1.03


def test_days_and_mfu_are_inverse():
  assert device_days(61.5e12 * 86400, TPU_V3, 1.0) == pytest.approx(1.0)
  assert device_days(61.5e12 * 86400, TPU_V3, 0.25) == pytest.approx(4.0)
  assert implied_mfu(4262e18, TPU_V3, 2500) == pytest.approx(0.3208, abs=1e-4)
  assert implied_mfu(4262e18, TPU_V3, device_days(4262e18, TPU_V3, 0.37)) == pytest.approx(0.37)


def tiny(**fields):
  c = default_config()
  with c.unlocked():
    c.update(
      dict(
        model='ViT-Ti/8',
        image_size=16,
        hidden_dim=16,
        mlp_dim=64,
        num_heads=2,
        num_layers=1,
        batch_size=64,
        total_steps=10,
      )
      | fields
    )
  return c


def test_cost_of_a_config():
  cost = estimate_run(tiny(), ['TPU v3', 'H200'], 0.5)
  block = 5 * (4 * 16**2 + 2 * 16 * 64) + 2 * 5**2 * 16
  forward = 2 * (4 * 192 * 16 + block + 16 * 1000)
  assert cost.forward_flops == forward and cost.train_flops == 3 * forward
  assert cost.total_flops == 3 * forward * 10 * 64
  assert cost.device_days['TPU v3'] == pytest.approx(3 * forward * 640 / 61.5e12 / 0.5 / 86400)
  assert cost.device_days['TPU v3'] / cost.device_days['H200'] == pytest.approx(989 / 61.5)
  assert math.isclose(cost.epochs, 640 / 1_281_167)
  params = 192 * 16 + 16 + 16 + 5 * 16 + 4 * (16 * 16 + 16) + (2 * 16 * 64 + 64 + 16) + 6 * 16
  assert cost.parameters == params + 16 * 1000 + 1000
  assert cost.state_bytes == pytest.approx(12 * cost.parameters, rel=1e-3)  # Adam has two
  assert cost.left_out == ['evaluations', 'elementwise work']


def test_the_machine_does_not_change_the_activations(monkeypatch):
  """A TPU would attend by head, which keeps no weights."""
  size = dict(image_size=96)  # 145 tokens
  activations = lambda **fields: estimate_run(tiny(**size, **fields), [], 0.5).activation_bytes
  here = activations()
  monkeypatch.setattr(dot_product_attention, 'target_platform', lambda: 'tpu')
  assert activations() == here
  assert activations(attention_implementation='by_head') < here


def test_a_block_keeps_what_its_products_and_norms_read():
  """ViT-Ti/16 at 64 px in bfloat16: L tokens of D channels, M in the MLP, H heads."""

  def activations(num_layers):
    c = default_config()
    c.update(model='ViT-Ti/16', image_size=64, dtype='bfloat16', num_layers=num_layers)
    return estimate_run(c, [], 0.5, num_images=1000).activation_bytes

  l, d, m, h = 17, 192, 768, 3
  tokens = 2 * l * (8 * d + 2 * m)  # two norms, q, k, v, attention, residual; GELU and its input
  weights = h * l * l * (4 + 2) + h * l * 2 * 4  # of attention; the softmax's maxima and sums
  statistics = 2 * 2 * 4 * l  # mean and deviation of two norms
  assert activations(3) - activations(2) == tokens + weights + statistics


def test_an_unknown_device_is_named():
  with pytest.raises(InputError, match=r"^Unknown device 'TPU v9'\. Did you mean 'TPU v"):
    get_device('TPU v9')
  assert get_device('NVIDIA H200') == DEVICES['H200']
