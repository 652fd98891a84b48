"""Apply the equal blocks of an encoder, perhaps in a scan, or with less memory for activations."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models.dot_product_attention import KEPT

_policies = jax.checkpoint_policies
# The activations of a block that are kept for the backward pass: all of them ('none'), the products
# with weights and the results of attention by head and cuDNN's ('dots'), or only the block's input
# ('full'). The others are computed again.
REMAT = {
  # Trace one block for all of them. The compiler sees the same program as without this.
  'none': lambda apply: jax.jit(apply, inline=True),
  'dots': lambda apply: jax.checkpoint(
    apply,
    policy=_policies.save_from_both_policies(
      _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(KEPT)
      ),
      lambda primitive, *_, **__: primitive.name.startswith('dot_product_attention_fwd'),  # cuDNN
    ),
  ),
  'full': jax.checkpoint,
}


def apply_blocks(
  apply: Callable[[jax.Array, Any], jax.Array],
  z: jax.Array,
  inputs: Sequence[Any],
  *,
  scan: bool,
  remat: str,
) -> jax.Array:
  """Apply blocks one after the other.

  Parameters are kept as one tree per block, as on disk. A scan stacks them here. This copy takes
  almost no time compared with a block.

  Args:
    apply: function (z, inputs of a block) -> z that applies one block.
    z: the tokens, (B, L, D).
    inputs: for each block, a pytree of its parameters and everything else that differs from block
      to block.
    scan: compile one block and scan over all of them, instead of compiling each one.
    remat: one of REMAT.

  Returns:
    The tokens after the last block, (B, L, D).
  """
  apply = REMAT[remat](apply)
  if scan:
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
    return jax.lax.scan(lambda z, block: (apply(z, block), None), z, stacked)[0]
  for i, block in enumerate(inputs):
    with jax.named_scope(f'encoderblock_{i}'):  # as Flax does, for profiles
      z = apply(z, block)
  return z
