"""What a model has to compute, counted from its fields.

Counted are matrix products, convolutions and the products of attention, a multiply-add as 2.
Left out are elementwise work (norms, softmax, activations, sums: 1-2 % of a ViT's operations)
and what a run repeats to save memory (remat): MFU asks for useful work. The compiler's own
count would not do, it takes the body of a scan once.
"""

from flax import linen as nn

from vit_jax.models.resnet import BiT
from vit_jax.models.sizes import ResNet
from vit_jax.models.vit import VisionTransformer


def forward_flops(model: nn.Module) -> int:
  """Floating-point operations of the forward pass on one image, for a model of create_model."""
  macs = _bit(model) if isinstance(model, BiT) else _vision_transformer(model)
  return 2 * macs


def train_flops(model: nn.Module) -> int:
  """Operations of one image's part in a training step: the backward pass takes two forward ones.

  That is a product for the gradient of each input and one for that of each kernel.
  """
  return 3 * forward_flops(model)


def _vision_transformer(model: VisionTransformer) -> int:
  """Multiply-adds of a ViT or a hybrid on one image."""
  d, mlp_dim, _, layers = model.variant
  h, w = model.grid
  macs, channels = _resnet(model.resnet, model.image_size) if model.resnet else (0, 3)
  macs += h * w * model.patch_size**2 * channels * d
  tokens = h * w + (model.head == 'token') + model.registers
  relative = model.pos_embedding == 'relative'
  mlp = lambda tokens: 2 * tokens * d * mlp_dim
  if model.attention == 'axial':
    rows, columns = (_attention(n, n, d, relative) for n in (w, h))
    macs += layers * (h * rows + w * columns + 2 * mlp(tokens))
  else:
    macs += layers * (_attention(tokens, tokens, d, relative) + mlp(tokens))
  if model.head == 'map':
    macs += _attention(1, h * w, d) + mlp(1)
  width = model.representation_size or d
  return macs + (d * width if model.representation_size else 0) + width * model.num_classes


def _attention(queries: int, keys: int, d: int, relative: bool = False) -> int:
  """Four projections, the logits, the weighted sum; with `relative`, logits of the offsets."""
  macs = 2 * (queries + keys) * d * d + 2 * queries * keys * d
  return macs + (queries * (2 * keys - 1) * d if relative else 0)


def _bit(model: BiT) -> int:
  macs, channels = _resnet(model.resnet, model.image_size)
  return macs + channels * model.num_classes


def _resnet(resnet: ResNet, image_size: tuple[int, int]) -> tuple[int, int]:
  """(multiply-adds on one image, channels of the output): stem and stages, v1 and v2 alike."""
  halve = lambda size: tuple(-(-n // 2) for n in size)
  area = lambda size: size[0] * size[1]
  size = halve(image_size)
  macs, channels = area(size) * 7 * 7 * 3 * resnet.width, resnet.width
  size = halve(size)  # the max-pool
  for b, units in enumerate(resnet.units):
    n = resnet.width * 2**b
    for i in range(units):
      out = halve(size) if b and i == 0 else size
      macs += area(size) * channels * n + area(out) * (3 * 3 * n * n + n * 4 * n)
      macs += area(out) * channels * 4 * n if i == 0 else 0  # the shortcut's projection
      size, channels = out, 4 * n
  return macs, channels
