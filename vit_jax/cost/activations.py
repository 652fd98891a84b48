"""Count the activations that the forward pass keeps for the backward pass.

Nothing is compiled or computed: the loss is traced with the shapes of its arguments.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models.params import Params
from vit_jax.training.objectives import Objective


def activation_bytes(
  objective: Objective, params: Params, image_size: tuple[int, int], num_classes: int
) -> int:
  """Return the bytes that the forward pass keeps of one image until the backward pass.

  This counts the distinct arrays that the traced loss hands to its gradient and that grow with the
  batch. Parameters, and copies of them in another dtype, do not count. A compiler keeps less where
  it recomputes elementwise work, and needs additional memory for the operation it is at. To learn
  the memory of a step on a TPU, compile it with `vit_jax.cost.plan`.

  Args:
    objective: the training objective, from `make_training`. If its model leaves
      attention_implementation open, the answer is for the platform of this machine.
    params: the parameters, or their shapes.
    image_size: (height, width).
    num_classes: number of classes of the labels.
  """
  kept = lambda size: _kept_bytes(objective, params, _batch(size, image_size, num_classes))
  return kept(3) - kept(2)  # not 2 and 1, because a batch of 1 is broadcast in other ways


def _batch(size: int, image_size: tuple[int, int], num_classes: int) -> Any:
  """Return a Batch of shapes instead of arrays."""
  array = jax.ShapeDtypeStruct
  return {
    'image': array((size, *image_size, 3), jnp.uint8),
    'label': array((size, num_classes), jnp.uint8),
    'example': array((size,), jnp.int32),
    'mask': array((size,), jnp.bool),
  }


def _kept_bytes(objective: Objective, params: Params, batch: Any) -> int:
  """Return the bytes of the arrays that the gradient needs, apart from the parameters."""

  def residuals(params: Params, batch: Any, key: jax.Array) -> list[Any]:
    loss = lambda params: jnp.mean(objective(params, batch, key)[0] * batch['mask'])
    return jax.tree.leaves(jax.vjp(loss, params)[1])

  key = jax.eval_shape(lambda: jax.random.key(0))
  jaxpr = jax.make_jaxpr(residuals)(params, batch, key).jaxpr
  arguments = set(jaxpr.invars)
  kept = {x for x in jaxpr.outvars if not hasattr(x, 'val') and x not in arguments}
  arrays: list[Any] = [x.aval for x in kept]
  return sum(array.size * array.dtype.itemsize for array in arrays)
