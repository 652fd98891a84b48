"""What training costs: memory for the backward pass, time on a device, the paper's own figures.

Nothing is compiled or computed: programs are traced with the shapes of their arguments alone.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vit_jax.parallel.devices import Device
from vit_jax.training.step import Objective

_DAY = 24 * 3600


class Published(NamedTuple):
  """A model that the paper pretrained, and what it says that cost."""

  model: str
  data: str  # as for recipes.pretrain
  epochs: int
  exaflops: int | None = None  # table 6
  core_days: int | None = None  # table 2: of TPU v3, where a core is a device


# The models of tables 2, 5 and 6. Table 6 also has a ResNet200x3, which create_model does not
# make; that L/16 of table 2 saw ImageNet-21k 90 times, and BiT-L JFT 40 times, is not said there
# but in table 3, beside 30, and in arXiv 1912.11370.
PUBLISHED = (
  Published('ViT-B/32', 'imagenet2012', 300),
  Published('ViT-B/16', 'imagenet2012', 300),
  Published('ViT-L/32', 'imagenet2012', 300),
  Published('ViT-L/16', 'imagenet2012', 300),
  Published('ViT-B/32', 'imagenet21k', 90),
  Published('ViT-B/16', 'imagenet21k', 90),
  Published('ViT-L/32', 'imagenet21k', 90),
  Published('ViT-L/16', 'imagenet21k', 90, core_days=230),
  Published('ViT-H/14', 'imagenet21k', 90),
  Published('ViT-B/32', 'jft', 7, 55),
  Published('ViT-B/16', 'jft', 7, 224),
  Published('ViT-L/32', 'jft', 7, 196),
  Published('ViT-L/16', 'jft', 7, 783),
  Published('ViT-L/16', 'jft', 14, 1567, 680),
  Published('ViT-H/14', 'jft', 14, 4262, 2500),
  Published('BiT-R50x1', 'jft', 7, 50),
  Published('BiT-R50x2', 'jft', 7, 199),
  Published('BiT-R101x1', 'jft', 7, 96),
  Published('BiT-R152x1', 'jft', 7, 141),
  Published('BiT-R152x2', 'jft', 7, 563),
  Published('BiT-R152x2', 'jft', 14, 1126),
  Published('BiT-R152x4', 'jft', 40, None, 9900),
  Published('R50+ViT-B/32', 'jft', 7, 106),
  Published('R50+ViT-B/16', 'jft', 7, 274),
  Published('R50+ViT-L/32', 'jft', 7, 246),
  Published('R50+ViT-L/16', 'jft', 7, 859),
  Published('R50+ViT-L/16', 'jft', 14, 1668),
)


def device_days(flops: float, device: Device, mfu: float) -> float:
  """How many days one device takes for so many operations at a share `mfu` of its peak."""
  return flops / (device.flops * mfu) / _DAY


def implied_mfu(flops: float, device: Device, days: float) -> float:
  """The share of its peak at which one device does so many operations in so many days."""
  return flops / (device.flops * days * _DAY)


def activation_bytes(
  objective: Objective, params: Any, image_size: tuple[int, int], num_classes: int
) -> int:
  """What the forward pass keeps of one image until the backward pass, in bytes.

  Counted are the distinct arrays that the traced loss hands to its gradient and that grow with the
  batch; so neither parameters nor their copies in another dtype. A compiler keeps less where it
  computes elementwise work again, and beside it needs room for what it works on: what a step takes
  on a TPU, `vit_jax.tools.aot` reads from the compiled program.

  Args:
    objective: of training, as of `train.make_training`.
    params: its parameters, or their shapes.
    image_size: (height, width).
    num_classes: of the labels.
  """
  kept = lambda size: _kept(objective, params, _batch(size, image_size, num_classes))
  return kept(3) - kept(2)  # not 1, which is broadcast in other ways


def _batch(size: int, image_size: tuple[int, int], num_classes: int) -> Mapping[str, Any]:
  array = jax.ShapeDtypeStruct
  return dict(
    image=array((size, *image_size, 3), jnp.uint8),
    label=array((size, num_classes), jnp.uint8),
    example=array((size,), jnp.int32),
    mask=array((size,), jnp.bool),
  )


def _kept(objective, params, batch):
  """Bytes of the arrays that the gradient by the parameters needs, themselves left out."""

  def residuals(params, batch, key):
    loss = lambda params: jnp.mean(objective(params, batch, key)[0] * batch['mask'])
    return jax.tree.leaves(jax.vjp(loss, params)[1])

  key = jax.eval_shape(lambda: jax.random.key(0))
  traced = jax.make_jaxpr(residuals)(params, batch, key).jaxpr
  given = set(traced.invars)
  kept = {x for x in traced.outvars if not hasattr(x, 'val') and x not in given}
  return sum(x.aval.size * x.aval.dtype.itemsize for x in kept)
