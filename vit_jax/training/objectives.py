"""The objective of training: the loss of each example, and whether it is right."""

from typing import Any, Protocol

from flax import linen as nn
import jax

from vit_jax.data.batch import Batch
from vit_jax.evaluation.accuracy import is_correct
from vit_jax.evaluation.losses import cross_entropy, multi_hot
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.training.mixup import MixupPartner, mix


class Objective(Protocol):
  """A function of parameters and a batch that training minimizes and evaluation reports.

  `supervised` makes one for classification, `models.masked_patches.make_objective` another.
  """

  def __call__(
    self,
    params: Params,
    batch: Batch,
    key: jax.Array | None,
    partner: MixupPartner | None = None,
    /,
  ) -> tuple[jax.Array, jax.Array]:
    """Compute the loss of each example.

    Args:
      params: all parameters of the model.
      batch: b examples.
      key: random key of the step; with batch['example'] it determines what is random about an
        example. None for evaluation, where nothing is random.
      partner: the examples to mix with, or None for no mixup.

    Returns:
      Losses (b,), and how far each example is right: (b,) bool, or float in [0, 1].
    """
    ...


def supervised(
  model: nn.Module, *, loss: str = 'softmax', label_smoothing: float = 0.0
) -> Objective:
  """Make the objective of classification: `cross_entropy` of the logits with the labels.

  With mixup, images and targets are mixed with those of their partners, but an example is right if
  the prediction is its own label.

  Args:
    model: the classifier.
    loss: 'softmax' or 'sigmoid', as in `cross_entropy`.
    label_smoothing: weight of the uniform distribution in the target, in training only.
  """

  def objective(
    params: Params, batch: Batch, key: jax.Array | None, partner: MixupPartner | None = None
  ) -> tuple[jax.Array, jax.Array]:
    images, labels = to_input(batch['image']), batch['label']
    targets = multi_hot(labels, model.num_classes)
    if partner is not None:
      images = mix(images, to_input(partner.image), partner.share)
      targets = mix(targets, multi_hot(partner.label, model.num_classes), partner.share)
    options: dict[str, Any] = {}
    if key is not None:
      options = dict(train=True, examples=batch['example'], rngs={'dropout': key})
    logits: Any = model.apply({'params': params}, images, **options)
    smoothing = 0.0 if key is None else label_smoothing
    losses = cross_entropy(logits, targets, kind=loss, label_smoothing=smoothing)
    return losses, is_correct(logits.argmax(-1), labels)

  return objective
