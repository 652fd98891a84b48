"""Choose which parameters are trained while the others stay frozen."""

from collections.abc import Callable

from flax import linen as nn

from vit_jax.errors import InputError

_HEADS = ('head/', 'resnet/head/')
_ABOVE_THE_BLOCKS = ('Transformer/encoder_norm/', 'MAPHead_0/', 'pre_logits/')


def trainable_filter(model: nn.Module, last_blocks: int) -> Callable[[str], bool]:
  """Return a function that takes the name of a parameter and returns True if it is trained.

  Args:
    model: a model made by `create_model`.
    last_blocks: number of Transformer blocks to train, counted from the last one. Everything
      above them is trained too. 0 trains only the last layer of the head (a linear probe).

  Raises:
    InputError: the model has fewer than `last_blocks` blocks.
  """
  blocks = getattr(getattr(model, 'variant', None), 'num_layers', 0)
  if last_blocks > blocks:
    remedy = f'at most {blocks}' if blocks else '0 for the head alone or None for everything'
    raise InputError(
      f'trained_blocks={last_blocks} does not fit a model with {blocks} Transformer blocks. '
      f'Use {remedy}.'
    )
  trained = _HEADS
  if last_blocks:
    first = blocks - last_blocks
    trained += _ABOVE_THE_BLOCKS
    trained += tuple(f'Transformer/encoderblock_{i}/' for i in range(first, blocks))
  return lambda name: name.startswith(trained)
