"""Count the floating-point operations of a model from its fields.

The count covers matrix products, convolutions and the products of attention. A multiply-add counts
as 2. Elementwise work is left out (norms, softmax, activations and sums: 1-2 % of a ViT), and so
are operations that are repeated to save memory (remat), because MFU measures useful work. XLA's own
count cannot be used, because it counts the body of a scan only once.
"""

from flax import linen as nn

from vit_jax.models.resnet import BiT
from vit_jax.models.sizes import ResNet
from vit_jax.models.vit import VisionTransformer


def forward_flops(model: nn.Module) -> int:
  """Return the floating-point operations of the forward pass of one image.

  Args:
    model: a model made by `create_model`.
  """
  if isinstance(model, BiT):
    return 2 * _bit_macs(model)
  assert isinstance(model, VisionTransformer)
  return 2 * _vision_transformer_macs(model)


def train_flops(model: nn.Module) -> int:
  """Return the floating-point operations of a training step, per image.

  The backward pass takes twice the forward pass: one product for the gradient of each input and one
  for the gradient of each kernel.
  """
  return 3 * forward_flops(model)


def _vision_transformer_macs(model: VisionTransformer) -> int:
  """Return the multiply-adds of a ViT or a hybrid for one image."""
  d, mlp_dim, _, layers = model.variant
  h, w = model.grid
  macs, channels = _resnet_macs(model.resnet, model.image_size) if model.resnet else (0, 3)
  macs += h * w * model.patch_size**2 * channels * d
  tokens = h * w + (model.head == 'token') + model.registers
  relative = model.pos_embedding == 'relative'
  mlp = 2 * d * mlp_dim  # per token
  if model.attention == 'axial':
    rows, columns = (_attention_macs(n, n, d, relative) for n in (w, h))
    macs += layers * (h * rows + w * columns + 2 * tokens * mlp)
  else:
    macs += layers * (_attention_macs(tokens, tokens, d, relative) + tokens * mlp)
  if model.head == 'map':
    macs += _attention_macs(1, h * w, d) + mlp
  width = model.representation_size or d
  return macs + (d * width if model.representation_size else 0) + width * model.num_classes


def _attention_macs(queries: int, keys: int, d: int, relative: bool = False) -> int:
  """Return the multiply-adds of one attention layer.

  The layer has four projections, the logits, the weighted sum and, with `relative`, the logits of
  the offsets.
  """
  macs = 2 * (queries + keys) * d * d + 2 * queries * keys * d
  return macs + (queries * (2 * keys - 1) * d if relative else 0)


def _bit_macs(model: BiT) -> int:
  macs, channels = _resnet_macs(model.resnet, model.image_size)
  return macs + channels * model.num_classes


def _resnet_macs(resnet: ResNet, image_size: tuple[int, int]) -> tuple[int, int]:
  """Return (multiply-adds for one image, output channels) of a headless ResNet, v1 or v2."""
  h, w = (-(-n // 2) for n in image_size)
  macs, channels = h * w * 7 * 7 * 3 * resnet.width, resnet.width
  h, w = -(-h // 2), -(-w // 2)  # the max-pool
  for b, units in enumerate(resnet.units):
    n = resnet.width * 2**b
    for i in range(units):
      area = h * w
      if b and i == 0:
        h, w = -(-h // 2), -(-w // 2)
      macs += area * channels * n + h * w * (3 * 3 * n * n + n * 4 * n)
      macs += h * w * channels * 4 * n if i == 0 else 0  # the projection of the shortcut
      channels = 4 * n
  return macs, channels
