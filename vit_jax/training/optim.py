"""Learning-rate schedules; Adam and SGD (paper section 4.1, tables 3 and 4)."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.errors import unknown
from vit_jax.models.params import Params

# The learning rate as a function of the step, counted from 0; a Schedule, for example.
LearningRate = Callable[[Any], Any]

SCHEDULES = ('cosine', 'linear', 'steps')
OPTIMIZERS = ('adam', 'sgd')
DECAYED = ('kernels', 'all')


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Learning rate as a function of the step: linear warmup from 0, times a decay.

  Attributes:
    kind: decay over the steps after the warmup: 'cosine' to 0, 'linear' to linear_end, or 'steps':
      a tenth at each of `drops`.
    peak: learning rate at the end of the warmup.
    total_steps: number of steps of the whole run, warmup included.
    warmup_steps: number of steps of the warmup. A run that is shorter only warms up.
    linear_end: learning rate at the end of 'linear'.
    drops: the steps at which 'steps' falls.

  Raises:
    InputError: there is no such kind.
  """

  kind: str
  peak: float
  total_steps: int
  warmup_steps: int
  linear_end: float = 1e-5
  drops: Sequence[int] = ()

  def __post_init__(self) -> None:
    if self.kind not in SCHEDULES:
      raise unknown('schedule', self.kind, SCHEDULES)

  def __call__(self, step: jax.Array | int) -> jax.Array | float:
    """Return the learning rate of a step, counted from 0."""
    rate = self._decayed(step)
    return rate * jnp.minimum(1.0, step / self.warmup_steps) if self.warmup_steps else rate

  def _decayed(self, step: jax.Array | int) -> jax.Array | float:
    decay_steps = max(1, self.total_steps - self.warmup_steps)
    progress = jnp.clip((step - self.warmup_steps) / decay_steps, 0.0, 1.0)
    if self.kind == 'linear':
      return self.linear_end + (self.peak - self.linear_end) * (1 - progress)
    if self.kind == 'steps':
      return self.peak * 0.1 ** sum(jnp.where(step >= drop, 1, 0) for drop in self.drops)
    return self.peak * 0.5 * (1 + jnp.cos(jnp.pi * progress))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Choice and settings of the optimizer.

  Attributes:
    kind: 'adam', or 'sgd': the direction is the sum of all gradients, each step's weighted
      by `momentum` once for every later step.
    beta1: decay of Adam's first moment, the mean of gradients.
    beta2: decay of Adam's second moment, the mean of squared gradients.
    momentum: decay of SGD's sum of gradients.
    moment_dtype: dtype of Adam's first moment, or of SGD's sum. 'bfloat16' saves memory.
    weight_decay: weight of the parameters in the update. 0 for no decay.
    decay: which parameters decay: 'kernels' or 'all'. The paper does not say which it decayed.
    clip_norm: largest global norm of the gradient. None or 0 for no clipping.

  Raises:
    InputError: there is no such kind or decay.
  """

  kind: str = 'adam'
  beta1: float = 0.9
  beta2: float = 0.999
  momentum: float = 0.9
  moment_dtype: str = 'float32'
  weight_decay: float = 0.0
  decay: str = 'kernels'
  clip_norm: float | None = None

  def __post_init__(self) -> None:
    if self.kind not in OPTIMIZERS:
      raise unknown('optimizer', self.kind, OPTIMIZERS)
    if self.decay not in DECAYED:
      raise unknown('decay', self.decay, DECAYED)


def make_optimizer(schedule: LearningRate, config: OptimizerConfig) -> optax.GradientTransformation:
  """Make the optimizer: update = -schedule(step) * (direction + weight_decay * parameter).

  The direction comes from Adam or SGD, after the gradient was clipped by its global norm.

  Args:
    schedule: learning rate by step.
    config: choice and settings of the optimizer.
  """
  c = config
  if c.kind == 'adam':
    direction = optax.scale_by_adam(c.beta1, c.beta2, mu_dtype=c.moment_dtype)
  else:
    direction = optax.trace(c.momentum, accumulator_dtype=c.moment_dtype)
  return optax.chain(
    optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else optax.identity(),
    direction,
    optax.add_decayed_weights(c.weight_decay, is_kernel if c.decay == 'kernels' else None),
    optax.scale_by_learning_rate(schedule),  # times -schedule(step)
  )


def is_kernel(params: Params) -> Params:
  """Return a tree of bools: True for matrices and filters, False for biases, norms, embeddings."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)
