import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from vit_jax.pretrained.fingerprint import fingerprint


def test_any_single_flipped_bit_changes_the_fingerprint():
  values = np.random.default_rng(0).normal(size=(40, 25)).astype(np.float32)
  whole = fingerprint({'w': jnp.asarray(values)})
  rng = np.random.default_rng(1)
  for _ in range(64):
    bits = values.copy().view(np.uint32)
    bits.flat[rng.integers(values.size)] ^= np.uint32(1 << rng.integers(32))
    assert fingerprint({'w': jnp.asarray(bits.view(np.float32))}) != whole
  swapped = values.copy()
  swapped[[0, 1]] = swapped[[1, 0]]
  assert fingerprint({'w': jnp.asarray(swapped)}) != whole


def test_the_fingerprint_is_the_same_on_any_sharding():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 24)), jnp.float32)
  mesh = Mesh(np.reshape(jax.devices(), (4, 2)), ('a', 'b'))
  expected = fingerprint({'x': x})
  for spec in (P(), P('a'), P('a', 'b'), P(None, ('a', 'b'))):
    assert fingerprint({'x': jax.device_put(x, NamedSharding(mesh, spec))}) == expected
