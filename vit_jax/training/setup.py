"""Make the model, the objective, the first state and the train step that a config describes."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn
import jax
from ml_collections import ConfigDict

from vit_jax.config.fields import mixup, model_overrides
from vit_jax.config.length import count_warmup_steps
from vit_jax.models import masked_patches
from vit_jax.models.create import create_model
from vit_jax.models.freeze import trainable_filter
from vit_jax.training import optim
from vit_jax.training import step as step_lib
from vit_jax.training.objectives import Objective, supervised


class Training(NamedTuple):
  """The computation that a config describes, on any devices."""

  model: nn.Module  # the model whose parameters are trained; a pretext task adds some of its own
  objective: Objective
  init: Callable[[], step_lib.TrainState]  # returns the state before the first step
  step: Callable[..., Any]  # see step.make_train_step
  shapes: Callable[[], step_lib.TrainState]  # returns the shapes of `init()`, faster


def make_training(c: ConfigDict, num_classes: int, total_steps: int) -> Training:
  """Make the computation that a config describes.

  Args:
    c: the fields of `vit_jax.config.fields.default_config`.
    num_classes: width of the head.
    total_steps: length of the run, for the learning-rate schedule.

  Raises:
    InputError: a value of the config does not fit the model.
  """
  masked = c.pretext == 'masked_patches'
  model = create_model(
    c.model, num_classes=0 if masked else num_classes, image_size=c.image_size, **model_overrides(c)
  )
  init_key, dropout_key = jax.random.split(jax.random.key(c.seed))
  if masked:
    trained_model = masked_patches.make_model(model, c.mpp_target, c.mpp_rate)
    objective = masked_patches.make_objective(trained_model, dropout_key)
  else:
    trained_model = model
    objective = supervised(model, loss=c.loss, label_smoothing=c.label_smoothing)
  schedule = optim.Schedule(
    kind=c.schedule,
    peak=c.lr,
    total_steps=total_steps,
    warmup_steps=count_warmup_steps(c, total_steps),
    linear_end=c.linear_end,
    drops=c.lr_drops,
  )
  optimizer_config = optim.OptimizerConfig(
    kind=c.optimizer,
    beta1=c.beta1,
    beta2=c.beta2,
    momentum=c.momentum,
    moment_dtype=c.moment_dtype,
    weight_decay=c.weight_decay,
    decay=c.decay,
    clip_norm=c.clip_norm,
  )
  optimizer = optim.make_optimizer(schedule, optimizer_config)
  trainable = None
  if c.trained_blocks is not None:
    trainable = trainable_filter(model, c.trained_blocks)
  parts: Any = dict(trainable=trainable, average=bool(c.average))
  init = lambda: step_lib.init_state(trained_model, optimizer, init_key, **parts)
  shapes = lambda: step_lib.state_shapes(trained_model, optimizer, **parts)
  step = step_lib.make_train_step(
    objective,
    optimizer,
    schedule,
    dropout_key=dropout_key,
    accumulate=c.accumulate,
    mixup=mixup(c),
    average=c.average,
    trainable=trainable,
  )
  return Training(model, objective, init, step, shapes)
