"""Estimate what the paper's models cost, beside the figures that the paper reports."""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from tqdm import tqdm

from vit_jax.config.recipes import pretrain
from vit_jax.cost.estimate import RunCost, estimate_run, get_device, implied_mfu

PAPER_DEVICE = 'TPU v3'  # one of the two cores of a chip; table 2 counts its days


class Published(NamedTuple):
  """A model that the paper pretrained, and the cost that the paper reports."""

  model: str
  data: str  # as for recipes.pretrain
  epochs: int
  exaflops: int | None = None  # table 6
  core_days: int | None = None  # table 2, where a core of TPU v3 is what JAX calls a device


# The models of tables 2, 5 and 6. Table 6 also has a ResNet200x3, which create_model does not make.
# Table 2 gives no number of epochs for L/16 on ImageNet-21k and for BiT-L on JFT. The first, 90, is
# from table 3, which also has 30. The second, 40, is from arXiv 1912.11370.
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


@dataclasses.dataclass(frozen=True)
class PublishedCost:
  """Our estimate for a model of the paper."""

  published: Published
  cost: RunCost

  @property
  def implied_mfu(self) -> float | None:
    """The MFU at which our operations take the days that the paper reports, or None."""
    days = self.published.core_days
    return implied_mfu(self.cost.total_flops, get_device(PAPER_DEVICE), days) if days else None

  def to_json(self) -> dict[str, Any]:
    """Return the fields as JSON values."""
    values = self.cost.to_json() | {
      'data': self.published.data,
      'paper_exaflops': self.published.exaflops,
      'paper_core_days': self.published.core_days,
    }
    if self.implied_mfu is not None:
      values['implied_mfu'] = self.implied_mfu
    return values


def published_costs(device_names: Sequence[str], mfu: float) -> list[PublishedCost]:
  """Estimate what each model that the paper pretrained costs.

  Args:
    device_names: the devices to give the days of, as JAX names them.
    mfu: the fraction of the peak rate that the runs are assumed to reach.
  """
  return [
    PublishedCost(published, estimate_run(published_config(published), device_names, mfu))
    for published in tqdm(PUBLISHED, 'tracing', leave=False, disable=None)
  ]


def published_config(published: Published) -> ConfigDict:
  """Return the config of a model of the paper."""
  c = pretrain(published.model, published.data)
  c.num_epochs = float(published.epochs)
  c.scan = not published.model.startswith('BiT-')  # traces one block instead of all
  return c
