"""Infer the sizes of a Vision Transformer from the names and shapes of its arrays."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.sizes import ResNet, Variant

PATCHES = 'embedding/kernel'
_ATTENTION = 'MultiHeadDotProductAttention_0'


@dataclasses.dataclass(frozen=True)
class ArraySizes:
  """Sizes and optional parts of a Vision Transformer (plain, axial or hybrid).

  Every property raises InputError if the array that it needs is missing.

  Attributes:
    arrays: {canonical name: array}, or anything with a shape in place of an array.
  """

  arrays: Mapping[str, Any]

  def shape(self, name: str) -> tuple[int, ...]:
    """Return the shape of an array."""
    if name not in self.arrays:
      raise InputError(
        f'The array {name} is missing, so this is not a model that create_model can build.'
      )
    return self.arrays[name].shape

  @property
  def is_vision_transformer(self) -> bool:
    """True if the arrays are those of a ViT or hybrid, and False for a BiT ResNet."""
    return PATCHES in self.arrays

  @property
  def axial(self) -> bool:
    """True if attention is axial: along rows, then along columns."""
    return 'Transformer/encoderblock_0/row/LayerNorm_0/scale' in self.arrays

  @property
  def _block(self) -> str:
    """The prefix of the first block's arrays, or of its first half if attention is axial."""
    return 'Transformer/encoderblock_0/' + ('row/' if self.axial else '')

  @property
  def hidden_dim(self) -> int:
    """Width of the tokens."""
    return self.shape(PATCHES)[3]

  @property
  def mlp_dim(self) -> int:
    """Width of the MLPs' hidden layer."""
    return self.shape(f'{self._block}MlpBlock_0/Dense_0/kernel')[1]

  @property
  def num_heads(self) -> int:
    """Number of attention heads."""
    return self.shape(f'{self._block}{_ATTENTION}/query/kernel')[1]

  @property
  def num_layers(self) -> int:
    """Number of blocks."""
    matches = (re.match(r'Transformer/encoderblock_(\d+)/', name) for name in self.arrays)
    return len({match[1] for match in matches if match})

  @property
  def variant(self) -> Variant:
    """Size of the encoder."""
    return Variant(self.hidden_dim, self.mlp_dim, self.num_heads, self.num_layers)

  @property
  def num_classes(self) -> int:
    """Number of outputs of the head, or 0 if there is no head."""
    return self._outputs('head')

  @property
  def representation_size(self) -> int:
    """Width of the pre_logits layer, or 0 if there is none."""
    return self._outputs('pre_logits')

  def _outputs(self, module: str) -> int:
    name = f'{module}/kernel'
    return self.shape(name)[1] if name in self.arrays else 0

  @property
  def head(self) -> str:
    """Kind of head: 'map', 'token' or 'gap'."""
    if 'MAPHead_0/probe' in self.arrays:
      return 'map'
    return 'token' if self.class_token else 'gap'

  @property
  def class_token(self) -> bool:
    """True if there is a class token."""
    return 'cls' in self.arrays

  @property
  def registers(self) -> int:
    """Number of register tokens."""
    return self.shape('registers')[1] if 'registers' in self.arrays else 0

  @property
  def layer_scale(self) -> bool:
    """True if the blocks scale their branches."""
    return f'{self._block}LayerScale_0/scale' in self.arrays

  @property
  def pre_norm(self) -> bool:
    """True if a LayerNorm comes before the blocks."""
    return 'Transformer/pre_norm/scale' in self.arrays

  @property
  def patch_bias(self) -> bool:
    """True if the patch embedding has a bias."""
    return 'embedding/bias' in self.arrays

  @property
  def qkv_bias(self) -> bool:
    """True if queries, keys and values have a bias."""
    return f'{self._block}{_ATTENTION}/query/bias' in self.arrays

  @property
  def patch_size(self) -> tuple[int, int]:
    """Size of a patch, (height, width), in pixels or in positions of a hybrid's ResNet."""
    height, width = self.shape(PATCHES)[:2]
    return height, width

  @property
  def resnet_units(self) -> tuple[int, ...] | None:
    """Units in each stage of a hybrid's ResNet, () if it is only a stem, None for other models."""
    if 'conv_root/kernel' not in self.arrays:
      return None
    return count_units(self.arrays, r'block(\d+)/unit\d+/conv1/kernel')

  @property
  def resnet_stride(self) -> int:
    """Pixels per position of a hybrid's ResNet, or 1 for other models."""
    return 1 if self.resnet_units is None else ResNet(self.resnet_units).stride

  @property
  def stride(self) -> tuple[int, int]:
    """Pixels per patch, (height, width)."""
    height, width = self.patch_size
    return self.resnet_stride * height, self.resnet_stride * width

  @property
  def num_patches(self) -> int | None:
    """Number of patches in the learned position embedding, or None if there is none."""
    names = (name for name in self.arrays if name.endswith('posembed_input/pos_embedding'))
    name = next(names, None)  # in the stem or in the first block
    return None if name is None else self.shape(name)[1] - self.class_token

  def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the (rows, columns) of patches that fit into an image."""
    return image_size[0] // self.stride[0], image_size[1] // self.stride[1]

  def fits(self, image_size: tuple[int, int]) -> bool:
    """Return True if an image has as many patches as the learned position embedding has."""
    rows, columns = self.grid(image_size)
    return rows * columns == self.num_patches


def count_units(arrays: Mapping[str, Any], pattern: str) -> tuple[int, ...]:
  """Return the number of units in each stage of a ResNet.

  Args:
    arrays: {canonical name: array}.
    pattern: regular expression for the name of one array per unit. Its group is the stage's number.
  """
  stages = [int(match[1]) for name in arrays if (match := re.fullmatch(pattern, name))]
  return tuple(stages.count(stage) for stage in sorted(set(stages)))
