import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.training import optim


def test_cosine_schedule_values():
  lr = optim.Schedule('cosine', peak=3e-3, total_steps=1100, warmup_steps=100)
  got = [float(lr(s)) for s in (0, 1, 50, 100, 600, 1100, 2000)]
  np.testing.assert_allclose(got, [0, 3e-5, 1.5e-3, 3e-3, 1.5e-3, 0, 0], rtol=1e-6, atol=1e-9)


def test_linear_schedule_values():
  lr = optim.Schedule('linear', peak=1e-3, total_steps=1100, warmup_steps=100)
  got = [float(lr(s)) for s in (0, 100, 600, 1100)]
  np.testing.assert_allclose(got, [0, 1e-3, (1e-3 + 1e-5) / 2, 1e-5], rtol=1e-6)


def test_no_warmup_and_warmup_longer_than_the_run():
  lr = optim.Schedule('cosine', peak=1.0, total_steps=10, warmup_steps=0)
  assert float(lr(0)) == 1
  lr = optim.Schedule('cosine', peak=1.0, total_steps=3, warmup_steps=10_000)
  np.testing.assert_allclose([float(lr(s)) for s in range(3)], [0, 1e-4, 2e-4], rtol=1e-5)


def tree(value):
  return {
    'dense': {'kernel': jnp.full((2, 3), value), 'bias': jnp.full((3,), value)},
    'norm': {'scale': jnp.full((3,), value)},
    'cls': jnp.full((1, 1, 3), value),
  }


@pytest.mark.parametrize(
  'decay, decayed',
  [('kernels', {'dense/kernel'}), ('all', {'dense/kernel', 'dense/bias', 'norm/scale', 'cls'})],
)
def test_adam_with_decoupled_decay_equals_numpy(decay, decayed):
  """Two steps against Adam written out (Kingma & Ba, with Loshchilov & Hutter's decay)."""
  lr, b1, b2, wd, eps = 0.1, 0.9, 0.999, 0.3, 1e-8
  tx = optim.make_optimizer(
    lambda _: lr, optim.OptimizerConfig(beta1=b1, beta2=b2, weight_decay=wd, decay=decay)
  )
  params = tree(2.0)
  state = tx.init(params)
  want = dict.fromkeys(('dense/kernel', 'dense/bias', 'norm/scale', 'cls'), (2.0, 0.0, 0.0))
  for t, g in enumerate([0.5, -0.2], start=1):
    updates, state = tx.update(tree(g), state, params)
    params = jax.tree.map(jnp.add, params, updates)
    for name, (w, m, v) in want.items():
      m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
      step = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
      want[name] = (w - lr * (step + (wd * w if name in decayed else 0)), m, v)
  flat = {
    'dense/kernel': params['dense']['kernel'],
    'dense/bias': params['dense']['bias'],
    'norm/scale': params['norm']['scale'],
    'cls': params['cls'],
  }
  for name, value in flat.items():
    np.testing.assert_allclose(value, np.full(value.shape, want[name][0]), rtol=1e-5)


@pytest.mark.parametrize('dtype, places', [('float32', 1e-6), ('bfloat16', 4e-3)])
def test_sgd_with_momentum_equals_numpy(dtype, places):
  lr, momentum = 0.1, 0.9
  tx = optim.make_optimizer(
    lambda _: lr, optim.OptimizerConfig(kind='sgd', momentum=momentum, moment_dtype=dtype)
  )
  params = tree(2.0)
  state = tx.init(params)
  assert {x.dtype for x in jax.tree.leaves(state) if x.ndim} == {jnp.dtype(dtype)}
  want, velocity = 2.0, 0.0
  for g in (0.5, -0.2, 0.3):
    updates, state = tx.update(tree(g), state, params)
    params = jax.tree.map(jnp.add, params, updates)
    velocity = momentum * velocity + g
    want -= lr * velocity
  for leaf in jax.tree.leaves(params):
    np.testing.assert_allclose(leaf, np.full(leaf.shape, want), rtol=places)


def test_clipping_is_by_the_global_norm_before_adam():
  """Adam forgets a constant scale, so the second moment shows what reached it."""
  grads = {'a': {'kernel': jnp.array([3.0, 0.0])}, 'b': {'kernel': jnp.array([0.0, 4.0])}}
  tx = optim.make_optimizer(lambda _: 1.0, optim.OptimizerConfig(clip_norm=1.0))
  _, state = tx.update(grads, tx.init(grads), grads)
  nu = next(
    s.nu for s in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, 'nu')) if hasattr(s, 'nu')
  )
  np.testing.assert_allclose(nu['a']['kernel'], [0.001 * 0.6**2, 0], rtol=1e-4)
  np.testing.assert_allclose(nu['b']['kernel'], [0, 0.001 * 0.8**2], rtol=1e-4)


def test_bad_names():
  with pytest.raises(
    ValueError,
    match=r"^Unknown schedule 'step'\. Did you mean 'steps'\? Available: cosine, linear, steps\.$",
  ):
    optim.Schedule('step', peak=1.0, total_steps=1, warmup_steps=0)
  with pytest.raises(ValueError, match=r"^Unknown optimizer 'lamb'\. Available: adam, sgd\.$"):
    optim.make_optimizer(lambda _: 1.0, optim.OptimizerConfig(kind='lamb'))
  with pytest.raises(ValueError, match=r"^Unknown decay 'bias'\. Available: kernels, all\.$"):
    optim.make_optimizer(lambda _: 1.0, optim.OptimizerConfig(decay='bias'))


def test_steps_fall_to_a_tenth():
  rate = optim.Schedule(
    'steps', peak=0.003, total_steps=500, warmup_steps=100, drops=(200, 300, 400)
  )
  np.testing.assert_allclose(
    [rate(s) for s in (0, 50, 100, 199, 200, 299, 300, 400, 499)],
    [0, 0.0015, 0.003, 0.003, 3e-4, 3e-4, 3e-5, 3e-6, 3e-6],
    rtol=1e-5,
  )
