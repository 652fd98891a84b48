import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from vit_jax.pretrained.fingerprint import fingerprint, summarize


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


def test_fingerprints_of_earlier_versions_are_the_same():
  x = (np.arange(60, dtype=np.float32) / 7).reshape(3, 4, 5)
  tree = {'f': x, 'h': jnp.asarray(x, jnp.bfloat16), 'b': np.arange(9, dtype=np.uint8)}
  expected = {'f': 2765948047, 'h': 2568588055, 'b': 2134691084, 'i': 884909819}
  assert fingerprint(tree | {'i': jnp.int32(7)}) == expected


@pytest.mark.parametrize('value', [np.inf, -np.inf, np.nan])
def test_a_summary_tells_whether_all_elements_are_finite(value):
  x = np.full((3, 4), np.finfo(np.float32).max, np.float32)
  y = x.copy()
  y[1, 2] = value
  summaries = summarize({'x': x, 'y': y, 'n': np.int32(1)})
  assert {name: summary.finite for name, summary in summaries.items()} == dict(
    x=True, y=False, n=True
  )


def test_arrays_of_equal_shape_share_a_program(caplog):
  state = {f'w{i}': jnp.full((5, 11 + i % 2), float(i)) for i in range(20)}
  with jax.log_compiles():
    assert len(set(fingerprint(state).values())) == 20
  compiled = [r for r in caplog.records if 'Compiling jit(_summarize)' in r.getMessage()]
  assert len(compiled) == 2
