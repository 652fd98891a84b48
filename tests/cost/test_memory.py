"""The bytes of a state and of a step agree with arithmetic."""

import jax
import jax.numpy as jnp

from tests.helpers.plans import step_and_state
from vit_jax.config.recipes import pretrain
from vit_jax.cost.memory import state_bytes, tree_bytes
from vit_jax.parallel.mesh import MeshPartitioner


def test_bytes_of_a_tree_without_shardings():
  tree = {'a': jax.ShapeDtypeStruct((3, 5), jnp.float32), 'b': jax.ShapeDtypeStruct((), jnp.int8)}
  assert tree_bytes(tree) == 3 * 5 * 4 + 1


def test_state_of_h14_per_device_is_one_over_fsdp():
  _, state = step_and_state(pretrain('ViT-H/14'))
  for fsdp in (1, 2, 4, 8):
    partitioner = MeshPartitioner(4096, mesh=(0, fsdp))
    parameters, moments, _ = state_bytes(partitioner.with_shardings(state))
    assert parameters == 632_045_800 * 4 // fsdp + 1280 * 1281 * 4 // fsdp
    assert moments == 2 * parameters
