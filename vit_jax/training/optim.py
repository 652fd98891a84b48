"""Learning-rate schedules; Adam and SGD (paper section 4.1, tables 3 and 4)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.errors import InputError


def make_schedule(
  kind: str,
  *,
  peak: float,
  total_steps: int,
  warmup_steps: int,
  linear_end: float = 1e-5,
  drops: Sequence[int] = (),
) -> optax.Schedule:
  """Linear warmup from 0 times a decay over the steps that remain.

  Args:
    kind: 'cosine' (to 0), 'linear' (to `linear_end`) or 'steps' (a tenth from each of `drops` on).
    peak: learning rate at the end of the warmup.
    total_steps: steps of the whole run, warmup included.
    warmup_steps: steps of the warmup; may exceed a short run, which then only warms up.
    linear_end: learning rate at the end of 'linear'.
    drops: steps at which 'steps' falls.
  Returns:
    A function of the step, counted from 0.
  """
  if kind not in ('cosine', 'linear', 'steps'):
    raise InputError(f'unknown schedule {kind!r}; there are cosine, linear, steps')

  def schedule(step):
    progress = jnp.clip((step - warmup_steps) / max(1, total_steps - warmup_steps), 0.0, 1.0)
    if kind == 'linear':
      rate = linear_end + (peak - linear_end) * (1 - progress)
    elif kind == 'steps':
      rate = peak * 0.1 ** sum(jnp.where(step >= drop, 1, 0) for drop in drops)
    else:
      rate = peak * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return rate * jnp.minimum(1.0, step / max(1, warmup_steps)) if warmup_steps else rate

  return schedule


def is_kernel(params: Any) -> Any:
  """A tree of bools: True for the matrices and filters, False for biases, norms, embeddings."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def make_optimizer(
  schedule: optax.Schedule,
  *,
  kind: str = 'adam',
  beta1: float = 0.9,
  beta2: float = 0.999,
  momentum: float = 0.9,
  moment_dtype: str = 'float32',
  weight_decay: float = 0.0,
  decay: str = 'kernels',
  clip_norm: float | None = None,
) -> optax.GradientTransformation:
  """After clipping by the global norm; update = -lr * (direction + weight_decay * parameter).

  Args:
    schedule: learning rate by step.
    kind: 'adam', or 'sgd': the sum of gradients, each step's times `momentum` a step later.
    beta1, beta2: decay of Adam's moments.
    momentum: of SGD.
    moment_dtype: of Adam's first moment, or SGD's sum; 'bfloat16' saves memory.
    weight_decay: 0 for none.
    decay: 'kernels' or 'all'; the paper does not say which parameters it decayed.
    clip_norm: None for no clipping.
  """
  if decay not in ('kernels', 'all'):
    raise InputError(f'unknown decay {decay!r}; there are kernels, all')
  if kind not in ('adam', 'sgd'):
    raise InputError(f'unknown optimizer {kind!r}; there are adam, sgd')
  return optax.chain(
    optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    optax.scale_by_adam(beta1, beta2, mu_dtype=moment_dtype)
    if kind == 'adam'
    else optax.trace(momentum, accumulator_dtype=moment_dtype),
    optax.add_decayed_weights(weight_decay, is_kernel if decay == 'kernels' else None),
    optax.scale_by_learning_rate(schedule),
  )
