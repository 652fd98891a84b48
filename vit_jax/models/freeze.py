"""Which parameters are trained when not all are."""

from collections.abc import Callable

from flax import linen as nn

from vit_jax.errors import InputError

_HEADS = ('head/', 'resnet/head/')
_ABOVE_THE_BLOCKS = ('Transformer/encoder_norm/', 'MAPHead_0/', 'pre_logits/')


def trained_names(model: nn.Module, last_blocks: int) -> Callable[[str], bool]:
  """Says of a parameter's name whether it is trained: in the head, or in the last blocks.

  Args:
    model: made by `create_model`.
    last_blocks: 0 for the head's last layer alone (a linear probe); n for all from the n-th last
      block of a Transformer on.

  Raises:
    InputError: the model does not have so many blocks.
  """
  blocks = getattr(getattr(model, 'variant', None), 'num_layers', 0)
  if last_blocks > blocks:
    raise InputError(
      f'trained_blocks={last_blocks}, but the model has {blocks} blocks'
      + ('' if blocks else ': only 0, the head alone, and -1, everything, fit it')
    )
  prefixes = _HEADS
  if last_blocks:
    prefixes += _ABOVE_THE_BLOCKS + tuple(
      f'Transformer/encoderblock_{i}/' for i in range(blocks - last_blocks, blocks)
    )
  return lambda name: name.startswith(prefixes)
