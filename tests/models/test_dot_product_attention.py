"""The implementations of attention compute the same function, and are chosen where they fit."""

import functools
import types

import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.abstract_mesh import abstract_mesh
from tests.helpers.fake_cudnn import fake_cudnn
from tests.models.test_flops import products
from vit_jax import create_model
from vit_jax.errors import InputError
from vit_jax.models import dot_product_attention, layers
from vit_jax.models.dot_product_attention import attend, suitable_implementation

RNG = np.random.default_rng(0)


def normal(shape, dtype=jnp.float32):
  return jnp.asarray(RNG.normal(size=shape), dtype)


def inputs(length=197, keys=None, width=16, dtype=jnp.float32):
  """Return q, k, v and the gradient of the result. Some logits are large."""
  q = normal((2, 3, length, width), dtype)
  k, v = (normal((2, 3, keys or length, width), dtype) for _ in range(2))
  return q, k, v, normal(q.shape, dtype)


@functools.partial(jax.jit, static_argnames='implementation')
def result_and_gradients(q, k, v, gradient, implementation):
  y, backward = jax.vjp(functools.partial(attend, implementation=implementation), q, k, v)
  return y, *backward(gradient)


def difference(a, b):
  """Return the largest difference, relative to the largest element of b."""
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize('sizes', [{}, dict(length=1, keys=50), dict(length=7, width=4)])
@pytest.mark.parametrize('dtype, limit', [('float32', 1e-5), ('bfloat16', 2e-2)])
def test_by_head_is_plain_gradients_included(sizes, dtype, limit):
  x = inputs(**sizes, dtype=jnp.dtype(dtype))
  expected, got = result_and_gradients(*x, 'plain'), result_and_gradients(*x, 'by_head')
  assert [(a.shape, a.dtype) for a in got] == [(a.shape, a.dtype) for a in expected]
  assert max(map(difference, got, expected)) < limit


@pytest.mark.parametrize('implementation', ['plain', 'by_head'])
def test_logits_of_any_size_give_finite_gradients(implementation):
  q, k, v, gradient = inputs(length=5)
  for x in result_and_gradients(100 * q, 100 * k, v, gradient, implementation):
    assert np.isfinite(x).all()


def test_by_head_never_holds_the_weights_of_all_heads():
  """The largest array that it keeps or computes is that of one head."""
  q, k, v, gradient = inputs()
  largest = lambda implementation: max(
    variable.aval.size
    for jaxpr in _jaxprs(
      jax.make_jaxpr(functools.partial(result_and_gradients, implementation=implementation))(
        q, k, v, gradient
      ).jaxpr
    )
    for equation in jaxpr.eqns
    for variable in equation.outvars
  )
  assert largest('plain') == 2 * 3 * 197 * 197
  assert largest('by_head') == 2 * 197 * 197


def _jaxprs(jaxpr):
  yield jaxpr
  for equation in jaxpr.eqns:
    for inner in jaxprs_in_params(equation.params):
      yield from _jaxprs(inner)


def test_dots_keeps_the_result_so_that_it_is_not_computed_again():
  model = lambda **overrides: create_model(
    'ViT-Ti/8', num_classes=3, image_size=16, num_layers=1, hidden_dim=16, mlp_dim=32,
    num_heads=2, attention_implementation='by_head', **overrides,
  )  # fmt: skip
  images = jnp.ones((1, 16, 16, 3))
  params = jax.eval_shape(model().init, jax.random.key(0), images)['params']

  def count(remat):
    loss = lambda params: model(remat=remat).apply({'params': params}, images).sum()
    return products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)

  assert count('dots') == count('none') < count('full')


@pytest.mark.parametrize('overrides', [dict(scan=True), dict(remat='full', head='map')])
def test_a_model_is_the_same_with_either(overrides):
  make = lambda implementation: create_model(
    'ViT-Ti/8', num_classes=3, image_size=16, num_layers=2, hidden_dim=16, mlp_dim=32, num_heads=2,
    attention_implementation=implementation, **overrides,
  )  # fmt: skip
  images = normal((2, 16, 16, 3))
  params = jax.jit(make(None).init)(jax.random.key(0), images)['params']
  params = jax.tree.map(lambda x: x + normal(x.shape) / 4, params)

  def value_and_grad(implementation):
    loss = lambda params: jnp.sum(make(implementation).apply({'params': params}, images) ** 2)
    return jax.jit(jax.value_and_grad(loss))(params)

  (plain, expected), (by_head, got) = value_and_grad('plain'), value_and_grad('by_head')
  np.testing.assert_allclose(by_head, plain, rtol=1e-5)
  scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), got, expected)


def test_the_default_follows_the_platform_that_is_compiled_for():
  """A step for a TPU is compiled in a process that runs on the CPU."""
  chosen = lambda length: suitable_implementation(length, 64, jnp.bfloat16)
  assert chosen(197) == 'plain'
  with jax.sharding.use_abstract_mesh(abstract_mesh('cpu')):
    assert chosen(197) == 'plain'
  with jax.sharding.use_abstract_mesh(abstract_mesh('tpu')):
    assert chosen(197) == 'by_head'
    assert chosen(dot_product_attention._BY_HEAD_FROM - 1) == 'plain'


def test_gpus_with_cudnn_use_it_in_bfloat16(monkeypatch):
  with jax.sharding.use_abstract_mesh(abstract_mesh('gpu')):
    monkeypatch.setattr(dot_product_attention, '_has_cudnn', lambda: False)
    assert suitable_implementation(197, 64, jnp.bfloat16) == 'plain'  # AMD's, or before Ampere
    monkeypatch.setattr(dot_product_attention, '_has_cudnn', lambda: True)
    assert suitable_implementation(197, 64, jnp.bfloat16) == 'cudnn'
    assert suitable_implementation(197, 64, jnp.float32) == 'plain'
    for width in (12, 136, 192):
      assert suitable_implementation(197, width, jnp.bfloat16) == 'plain'


@pytest.mark.parametrize(
  'capability, expected', [('9.0', True), ('7.5', False), ('12.0', True), ('gfx90a', False)]
)
def test_cudnn_s_attention_needs_ampere(monkeypatch, capability, expected):
  device = types.SimpleNamespace(compute_capability=capability)
  monkeypatch.setattr(jax, 'devices', lambda: [device])
  assert dot_product_attention._has_cudnn() == expected


def padded_attention(q, k, v, queries, keys):
  """Return what `cudnn_attention` returns, by another way."""
  assert q.shape[1] % 2 == k.shape[1] % 2 == 0
  q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q[:, :queries], k[:, :keys], v[:, :keys]))
  y = jnp.swapaxes(attend(q / np.sqrt(q.shape[-1]), k, v), 1, 2)
  return jnp.pad(y, ((0, 0), (0, queries % 2), (0, 0), (0, 0)))


@pytest.mark.parametrize('queries, keys', [(7, None), (8, None), (1, 7), (2, 8)])
def test_the_layer_with_cudnn_is_that_with_plain(monkeypatch, queries, keys):
  """Odd lengths are padded, and q, k and v have their heads behind the tokens."""
  monkeypatch.setattr(layers, 'cudnn_attention', padded_attention)
  make = lambda name: layers.MultiHeadDotProductAttention(2, jnp.float32, implementation=name)
  x, source = normal((3, queries, 12)), None if keys is None else normal((3, keys, 12))
  params = make('plain').init(jax.random.key(0), x, source)
  params = jax.tree.map(lambda a: a + normal(a.shape), params)

  def value_and_gradients(name):
    y, backward = jax.vjp(make(name).apply, params, x, source)
    return y, backward(jnp.cos(y))

  got, expected = (jax.tree.leaves(value_and_gradients(name)) for name in ('cudnn', 'plain'))
  assert [a.shape for a in got] == [a.shape for a in expected]
  scale = max(np.abs(b).max() for b in expected)  # the gradient of the keys' bias is 0
  assert max(np.abs(a - b).max() for a, b in zip(got, expected)) < 5e-5 * scale


def small(**overrides):
  return create_model(
    'ViT-Ti/8', num_classes=3, image_size=16, num_layers=2, hidden_dim=16, mlp_dim=32, num_heads=2,
    dtype='bfloat16', attention_implementation='cudnn', **overrides,
  )  # fmt: skip


@pytest.mark.parametrize('head', ['token', 'gap'])  # an odd and an even number of tokens
def test_examples_and_parameters_may_be_batched_with_cudnn(monkeypatch, head):
  fake_cudnn(monkeypatch)
  model, images = small(head=head), jax.ShapeDtypeStruct((4, 2, 16, 16, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images.update(shape=images.shape[1:]))
  loss = lambda params, images: jnp.sum(model.apply(params, images))
  gradients = jax.eval_shape(jax.vmap(jax.grad(loss), (None, 0)), params, images)
  assert gradients['params']['cls' if head == 'token' else 'head'] is not None
  for gradient, param in zip(jax.tree.leaves(gradients), jax.tree.leaves(params)):
    assert gradient.shape == (4, *param.shape)


@pytest.mark.parametrize('remat, calls', [('none', 2), ('dots', 2), ('full', 4)])
def test_dots_keeps_what_cudnn_returns(monkeypatch, remat, calls):
  """With two blocks, cuDNN's forward pass is called twice, unless its results are not kept."""
  fake_cudnn(monkeypatch)
  model, images = small(remat=remat), jnp.ones((2, 16, 16, 3))
  params = jax.eval_shape(model.init, jax.random.key(0), images)
  loss = lambda params: jnp.sum(model.apply(params, images))
  jaxprs = _jaxprs(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
  names = [equation.primitive.name for jaxpr in jaxprs for equation in jaxpr.eqns]
  assert sum(name.startswith('dot_product_attention_fwd') for name in names) == calls


@pytest.mark.parametrize('head', ['token', 'gap'])
def test_cudnn_s_gradients_are_close_to_those_of_float32(head):
  """This needs a GPU: JAX_PLATFORMS=cuda python -m pytest tests/models -k float32."""
  if not dot_product_attention._has_cudnn():
    pytest.skip('JAX uses no GPU with cuDNN here.')
  make = functools.partial(create_model, 'ViT-S/16', num_classes=3, num_layers=2, head=head)
  images = normal((2, 224, 224, 3))
  params = make().init(jax.random.key(0), images)['params']
  params = jax.tree.map(lambda x: x + normal(x.shape) / 20, params)

  def gradients(**kwargs):
    loss = lambda params: jnp.sum(make(**kwargs).apply({'params': params}, images) ** 2)
    return jax.jit(jax.grad(loss))(params)

  got = gradients(dtype='bfloat16', attention_implementation='cudnn')
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(gradients(dtype='float32'))):
    assert np.linalg.norm(a - b) <= 3e-2 * np.linalg.norm(b) + 1e-6


def test_other_implementations_are_refused():
  with pytest.raises(InputError) as error:
    attend(*inputs()[:3], implementation='cudnn')
  assert str(error.value) == "Unknown implementation 'cudnn'. Available: plain, by_head."


@pytest.mark.parametrize(
  'overrides', [dict(attention='axial', head='gap'), dict(pos_embedding='relative')]
)
@pytest.mark.parametrize('implementation', ['by_head', 'cudnn'])
def test_axial_attention_and_relative_positions_are_plain(overrides, implementation):
  make = functools.partial(create_model, 'ViT-Ti/16', num_classes=3, dtype='bfloat16', **overrides)
  make(attention_implementation=None)
  make(attention_implementation='plain')
  with pytest.raises(InputError) as error:
    make(attention_implementation=implementation)
  assert str(error.value) == (
    f'attention_implementation={implementation!r} has no axial attention and no relative position '
    "embeddings. Use 'plain', or leave it out."
  )


def test_cudnn_takes_bfloat16_on_gpus(monkeypatch):
  make = functools.partial(
    create_model, 'ViT-Ti/16', num_classes=3, attention_implementation='cudnn'
  )
  with pytest.raises(InputError) as error:
    make(dtype='float32')
  assert str(error.value) == (
    "attention_implementation='cudnn' computes in bfloat16 only. Use dtype='bfloat16', or "
    "attention_implementation='plain'."
  )
  images = jnp.zeros((1, 224, 224, 3))
  model = make(dtype='bfloat16')
  params = jax.eval_shape(model.init, jax.random.key(0), images)  # needs no GPU
  monkeypatch.setattr(dot_product_attention, '_has_cudnn', lambda: False)
  with pytest.raises(InputError) as error:
    jax.eval_shape(model.apply, params, images)
  assert str(error.value) == (
    "attention_implementation='cudnn' needs an NVIDIA GPU from Ampere on in this machine, but JAX "
    f"uses {jax.devices()[0].device_kind!r}. Use 'plain' or 'by_head', or leave it out."
  )


def test_an_unknown_implementation_is_an_input_error():
  with pytest.raises(InputError) as error:
    create_model('ViT-Ti/16', num_classes=3, attention_implementation='fast')
  assert str(error.value) == (
    "Unknown attention_implementation 'fast'. Available: plain, by_head, cudnn."
  )
