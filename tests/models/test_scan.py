import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_flops import products
from vit_jax.models.scan import REMAT, apply_blocks

KERNELS = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
INPUTS = [({'kernel': kernel}, i, np.float32(i / 10)) for i, kernel in enumerate(KERNELS)]
Z = jnp.ones((2, 3))


def apply(z, inputs):
  params, i, rate = inputs
  return jnp.sin(z @ params['kernel']) + i + (0 if rate is None else rate)


def loop(z, inputs):
  for block in inputs:
    z = apply(z, block)
  return z


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize('remat', REMAT)
def test_blocks_follow_one_another(scan, remat):
  run = lambda z, inputs: apply_blocks(apply, z, inputs, scan=scan, remat=remat)
  np.testing.assert_allclose(run(Z, INPUTS), loop(Z, INPUTS), rtol=1e-6)
  gradient = jax.grad(lambda z: run(z, INPUTS).sum())(Z)
  np.testing.assert_allclose(gradient, jax.grad(lambda z: loop(z, INPUTS).sum())(Z), rtol=1e-5)


def test_a_value_of_none_is_none_in_every_block():
  inputs = [(params, i, None) for params, i, _ in INPUTS]
  z = apply_blocks(apply, Z, inputs, scan=True, remat='none')
  np.testing.assert_allclose(z, loop(Z, inputs), rtol=1e-6)


@pytest.mark.parametrize('remat, count', [('none', 8), ('dots', 8), ('full', 12)])
def test_only_full_recomputes_products(remat, count):
  """Each block has one product forward, one backward, and a third if it is recomputed."""
  run = lambda z: apply_blocks(apply, z, INPUTS, scan=False, remat=remat).sum()
  one = 2 * Z.shape[0] * 3 * 3
  assert products(jax.make_jaxpr(jax.grad(run))(Z).jaxpr) == count * one
