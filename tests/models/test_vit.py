import collections
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.paths import FILES
from vit_jax import create_model, load_params
from vit_jax.models.dropout import dropout_mask
from vit_jax.models.sizes import VARIANTS, Variant
from vit_jax.models.vit import VisionTransformer
from vit_jax.pretrained.load import abstract_params

MINI = Variant(hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2)


def mini(**overrides):
  return VisionTransformer(MINI, 8, (32, 32), 10, **overrides)


def init(model, seed=0):
  images = jnp.zeros((1, *model.image_size, 3))
  return jax.jit(model.init)(jax.random.key(seed), images)['params']


def test_published_21k_b16_arrays():
  model = create_model('ViT-B/16', num_classes=21843, representation_size=768)
  leaves = jax.tree.leaves(abstract_params(model))
  assert (len(leaves), sum(p.size for p in leaves)) == (202, 103_186_515)


@pytest.mark.parametrize('name', VARIANTS)
def test_every_variant_and_any_patch_builds(name):
  params = abstract_params(create_model(f'ViT-{name}/7', num_classes=3, image_size=(14, 21)))
  width = VARIANTS[name].hidden_dim
  assert params['embedding']['kernel'].shape == (7, 7, 3, width)
  assert params['Transformer']['posembed_input']['pos_embedding'].shape == (1, 7, width)


@pytest.mark.parametrize(
  'file, overrides',
  [
    ('vit_token.npz', {}),
    ('vit_token.linen.npz', {}),
    ('vit_gap.npz', {'head': 'gap'}),
    ('vit_pre_logits.npz', {'representation_size': 48}),
  ],
)
def test_logits_equal_the_original_implementation(file, overrides):
  model = mini(**overrides)
  params = load_params(FILES / file, model)
  reference = np.load(FILES / f'{file.split(".")[0]}.io.npz')
  logits = jax.jit(model.apply)({'params': params}, reference['image'])
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, reference['logits'], rtol=0, atol=2e-5)


def test_bfloat16_products_are_of_bfloat16():
  """All products, forward and backward, are bfloat16 except those of the head, in float32."""
  model = mini(dtype=jnp.bfloat16)
  loss = lambda params, x: model.apply({'params': params}, x).sum()
  images = jnp.zeros((5, 32, 32, 3))
  text = jax.jit(jax.value_and_grad(loss)).lower(abstract_params(model), images).as_text()
  products = re.findall(r'dot_general.*: \(tensor<(\S+)>, tensor<(\S+)>\)', text)
  kinds = collections.Counter(tuple(shape.rsplit('x', 1)[1] for shape in pair) for pair in products)
  layers, per_layer, patches = 2, 8, 1  # q, k, v, out, two of attention, two of the MLP
  half = 3 * layers * per_layer + 2 * patches
  assert kinds == {('bf16', 'bf16'): half, ('f32', 'f32'): 3}


def test_bfloat16_gradients_stay_near_float32():
  params = load_params(FILES / 'vit_token.npz', mini())
  images = np.load(FILES / 'vit_token.io.npz')['image']

  def gradients(dtype):
    model = mini(dtype=dtype)
    loss = lambda params: jax.nn.log_softmax(model.apply({'params': params}, images))[:, 0].mean()
    return jax.jit(jax.grad(loss))(params)

  half, full = map(jax.tree.leaves, map(gradients, (jnp.bfloat16, jnp.float32)))
  whole = np.sqrt(sum(np.sum(np.square(x)) for x in full))
  for x, y in zip(half, full, strict=True):
    assert x.dtype == jnp.float32
    # The gradient of the keys' biases is only rounding error, hence the second term.
    assert np.linalg.norm(x - y) < 0.03 * np.linalg.norm(y) + 0.002 * whole


def test_bfloat16_stays_near_float32():
  params = load_params(FILES / 'vit_token.npz', mini())
  images = np.load(FILES / 'vit_token.io.npz')['image']
  half = mini(dtype=jnp.bfloat16).apply({'params': params}, images)
  full = mini().apply({'params': params}, images)
  assert half.dtype == jnp.float32
  assert 1e-6 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


def test_initialization():
  model = create_model(
    'ViT-Ti/16', num_classes=1000, head_bias_init=-10.0, image_size=32, representation_size=192
  )
  p = init(model)
  assert not np.any(p['head']['kernel']) and np.all(p['head']['bias'] == -10)
  assert not np.any(p['cls'])
  block = p['Transformer']['encoderblock_0']
  query = block['MultiHeadDotProductAttention_0']['query']
  bound = np.sqrt(6 / (192 + 192))  # xavier over (D, H * K), not over (D, H, K)
  assert 0.99 * bound < np.abs(query['kernel']).max() <= bound
  assert not np.any(query['bias'])
  bound = np.sqrt(6 / (192 + 768))
  assert 0.99 * bound < np.abs(block['MlpBlock_0']['Dense_0']['kernel']).max() <= bound
  assert 0.5e-6 < np.std(block['MlpBlock_0']['Dense_0']['bias']) < 2e-6
  assert abs(np.std(p['Transformer']['posembed_input']['pos_embedding']) - 0.02) < 2e-3
  assert abs(np.std(p['embedding']['kernel']) * np.sqrt(16 * 16 * 3) - 1) < 0.02
  logits = model.apply({'params': p}, jnp.ones((2, 32, 32, 3)))
  assert np.all(logits == -10)


def test_patches_can_be_permuted_with_their_positions():
  """Attention is permutation-equivariant. Only the position embedding depends on the order."""
  model = mini(head='gap')
  params = load_params(FILES / 'vit_gap.npz', model)
  images = np.load(FILES / 'vit_gap.io.npz')['image']
  order = np.random.default_rng(0).permutation(16)
  patches = images.reshape(2, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 16, 8, 8, 3)
  moved = patches[:, order].reshape(2, 4, 4, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5)
  moved = moved.reshape(images.shape)
  position = params['Transformer']['posembed_input']['pos_embedding']
  shuffled = jax.tree.map(lambda x: x, params)
  shuffled['Transformer']['posembed_input'] = {'pos_embedding': position[:, order]}
  same = model.apply({'params': shuffled}, moved)
  np.testing.assert_allclose(same, model.apply({'params': params}, images), atol=1e-5)
  other = model.apply({'params': params}, moved)
  assert np.abs(other - same).max() > 1e-3


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_dropout_mask_rate_and_independence(rate):
  keys = jax.random.split(jax.random.key(0), 4)
  mask = np.asarray(dropout_mask(keys, (200, 300), rate))
  assert mask.shape == (4, 200, 300)
  assert np.all(np.abs(1 - mask.mean(axis=(1, 2)) - rate) < 5 * np.sqrt(rate * (1 - rate) / 6e4))
  centered = mask.reshape(4, -1) - (1 - rate)
  correlation = centered @ centered.T / 6e4 / (rate * (1 - rate))
  np.testing.assert_allclose(correlation, np.eye(4), atol=0.03)
  lag = (centered[:, 1:] * centered[:, :-1]).mean() / (rate * (1 - rate))
  assert abs(lag) < 0.015


def test_dropout_is_a_function_of_the_example_not_of_the_batch():
  model = mini(dropout=0.3)
  params = load_params(FILES / 'vit_token.npz', model)
  images = jnp.repeat(np.load(FILES / 'vit_token.io.npz')['image'], 4, axis=0)
  apply = jax.jit(
    lambda x, examples, seed=0: model.apply(
      {'params': params}, x, train=True, examples=examples, rngs={'dropout': jax.random.key(seed)}
    )
  )
  order = np.arange(8)
  whole = apply(images, order)
  assert np.array_equal(whole, apply(images, None))
  halves = jnp.concatenate([apply(images[:4], order[:4]), apply(images[4:], order[4:])])
  np.testing.assert_allclose(halves, whole, atol=1e-5)
  np.testing.assert_allclose(apply(images[::-1], order[::-1]), whole[::-1], atol=1e-5)
  assert np.abs(whole[0] - whole[1]).max() > 1e-3  # same image, other masks
  assert np.abs(whole - apply(images, order, seed=1)).max() > 1e-3
  assert np.array_equal(
    model.apply({'params': params}, images), mini().apply({'params': params}, images)
  )  # train=False: no dropout


@pytest.mark.parametrize(
  'make_key', [jax.random.key, jax.random.PRNGKey, lambda seed: jax.random.key(seed, impl='rbg')]
)
def test_any_kind_of_key_drives_dropout(make_key):
  model = mini(dropout=0.3)
  params = load_params(FILES / 'vit_token.npz', model)
  images = np.load(FILES / 'vit_token.io.npz')['image']
  apply = jax.jit(
    lambda key: model.apply({'params': params}, images, train=True, rngs={'dropout': key})
  )
  a, b = apply(make_key(0)), apply(make_key(1))
  assert np.array_equal(a, apply(make_key(0))) and np.abs(a - b).max() > 1e-3


def test_wrong_image_size_is_named():
  with pytest.raises(ValueError, match='The images are 16x32, but the model was made for 32x32. '):
    mini().init(jax.random.key(0), jnp.zeros((1, 16, 32, 3)))


def blocks_one_by_one(model, params, images, **kwargs):
  """Apply a model whose blocks are modules of their own, as Flax captures them."""
  return model.apply({'params': params}, images, mutable='intermediates', **kwargs)[0]


def test_all_blocks_come_from_tracing_one():
  """Losses and gradients are the bits of the program in which each block is traced."""
  positions = dict(pos_embedding='relative', pos_embedding_at='shared')
  model = mini(dropout=0.3, stochastic_depth=0.2, **positions)
  images = np.load(FILES / 'vit_token.io.npz')['image']
  params = init(model, seed=1)
  kwargs = dict(train=True, rngs={'dropout': jax.random.key(2)})
  traced = []

  def count(call, args, kwargs, context):
    traced.append(context.module.name)
    return call(*args, **kwargs)

  def loss(apply):
    return jax.jit(jax.value_and_grad(lambda params: (apply(params) ** 2).sum()))

  shared = loss(lambda params: model.apply({'params': params}, images, **kwargs))
  separate = loss(lambda params: blocks_one_by_one(model, params, images, **kwargs))
  counts = []
  for step in (shared, separate):
    with nn.intercept_methods(count):
      step.trace(params)
    counts.append(traced.count('Dense_0'))
    traced.clear()
  assert counts[1] == model.variant.num_layers * counts[0]
  jax.tree.map(np.testing.assert_array_equal, shared(params), separate(params))


def test_a_profile_names_the_blocks():
  model = mini()
  images = jnp.zeros((1, *model.image_size, 3))
  program = jax.jit(model.apply).lower({'params': init(model)}, images)
  assert re.search('encoderblock_1/.*MlpBlock_0/Dense_0', program.as_text(debug_info=True))


def test_without_jit_a_second_call_compiles_nothing(caplog):
  model = mini()
  params, images = init(model), np.load(FILES / 'vit_token.io.npz')['image']
  once = model.apply({'params': params}, images)
  with jax.log_compiles():
    assert np.array_equal(model.apply({'params': params}, images), once)
    assert not [record for record in caplog.records if 'Compiling' in record.getMessage()]
    jax.jit(lambda x: x + 12.5)(once)
    assert [record for record in caplog.records if 'Compiling' in record.getMessage()]
