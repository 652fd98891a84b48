"""One step of training or evaluation: pure functions, the same on any number of devices."""

from collections.abc import Callable
import functools
import math
from typing import Any

from flax import linen as nn
from flax import struct, traverse_util
import jax
import jax.numpy as jnp
import optax

from vit_jax.data.batch import Batch
from vit_jax.errors import InputError
from vit_jax.models.params import Params
from vit_jax.parallel.partitioner import WHOLE, Shard
from vit_jax.pretrained.load import abstract_params
from vit_jax.training.mixup import MixupPartner, draw_partner
from vit_jax.training.objectives import Objective
from vit_jax.training.optim import LearningRate

Metrics = dict[str, jax.Array]
Sums = tuple[tuple[jax.Array, jax.Array], Params]  # ((loss, accuracy), gradients)
# Takes the name of a parameter, such as 'Transformer/encoderblock_0/...', and returns True if it is
# trained (models.freeze.trainable_filter). None instead of a filter means that all are trained.
TrainableFilter = Callable[[str], bool]


class TrainState(struct.PyTreeNode):
  """The state that training carries from step to step. The step determines data and randomness."""

  step: jax.Array  # () int32, number of steps done
  params: Params
  opt_state: optax.OptState  # for the trained parameters only


class AveragedState(TrainState):
  """A state with an average of the parameters over the steps (Polyak averaging)."""

  average: Params


def init_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  *,
  trainable: TrainableFilter | None = None,
  average: bool = False,
) -> TrainState:
  """Return the state before the first step: random parameters, zero moments, step 0.

  Args:
    model: the model.
    optimizer: the optimizer.
    key: random key of the parameters.
    trainable: which parameters are trained.
    average: True to keep an average of the parameters.
  """
  images = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
  params = model.lazy_init(key, images)['params']
  return _first_state(params, optimizer, trainable, average)


def state_shapes(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  trainable: TrainableFilter | None = None,
  average: bool = False,
) -> TrainState:
  """Return the shapes of a state of `init_state`, from tracing one block of the model."""
  first_state = lambda params: _first_state(params, optimizer, trainable, average)
  return jax.eval_shape(first_state, abstract_params(model))


def _first_state(
  params: Params,
  optimizer: optax.GradientTransformation,
  trainable: TrainableFilter | None,
  average: bool,
) -> TrainState:
  fields: dict[str, Any] = dict(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(split_params(params, trainable)[0]),
  )
  if average:
    return AveragedState(**fields, average=jax.tree.map(jnp.zeros_like, params))
  return TrainState(**fields)


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  schedule: LearningRate,
  *,
  dropout_key: jax.Array,
  accumulate: int = 1,
  mixup: float = 0.0,
  average: float | None = None,
  trainable: TrainableFilter | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Make the function train_step(state, batch, shard=WHOLE) -> (state, metrics).

  Dropout and mixup do not depend on how a batch is split, so the number of devices and of
  accumulation passes does not change the result. Examples whose mask is False add nothing to loss
  and gradient.

  Args:
    objective: the function to minimize.
    optimizer: turns gradients into updates.
    schedule: learning rate by step, for the metric 'lr'. The optimizer has it already.
    dropout_key: random key for everything that is random in training steps.
    accumulate: number of equal passes that each device's rows are split into; their gradients are
      averaged.
    mixup: p of the distribution Beta(p, p) from which each step draws how far images and labels
      are mixed (see `training.mixup`). 0 for no mixup.
    average: factor by which a step weighs less than the next in the average of the parameters
      (0.9999 in section 4.1 of the paper). None for no average.
    trainable: which parameters are trained. The others get no gradient.

  Returns:
    train_step. Its arguments are a TrainState, a batch of which this call sees the rows of one
    shard, and the shard (made by a Partitioner). Its metrics are those of the step, before the
    update: loss, accuracy, grad_norm (before clipping), lr.
  """

  def loss_and_grads(
    trained: Params,
    frozen: Params,
    batch: Batch,
    partner: MixupPartner | None,
    key: jax.Array,
    shard: Shard,
  ) -> Sums:
    """Return ((loss, accuracy), gradients): means over the shard's rows, pass by pass."""

    def loss_and_accuracy(
      trained: Params, batch: Batch, partner: MixupPartner | None
    ) -> tuple[jax.Array, jax.Array]:
      losses, correct = objective(merge_params(trained, frozen), batch, key, partner)
      return jnp.mean(losses * batch['mask']), jnp.mean(correct * batch['mask'])

    grad_fn = jax.value_and_grad(loss_and_accuracy, has_aux=True)
    if accumulate == 1:
      return grad_fn(trained, batch, partner)

    def add_pass(total: Sums, part: tuple[Batch, MixupPartner | None]) -> tuple[Sums, None]:
      return jax.tree.map(jnp.add, total, grad_fn(trained, *part)), None

    zeros = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, trained))
    split = lambda x: _split_passes(x, accumulate, shard.num_devices)
    total, _ = jax.lax.scan(add_pass, zeros, jax.tree.map(split, (batch, partner)))
    return jax.tree.map(lambda x: x / accumulate, total)

  def train_step(
    state: TrainState, batch: Batch, shard: Shard = WHOLE
  ) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(dropout_key, state.step)
    partner = draw_partner(batch, mixup, key, shard) if mixup else None
    trained, frozen = split_params(state.params, trainable)
    (loss, accuracy), grads = shard.mean(
      loss_and_grads(trained, frozen, batch, partner, key, shard)
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    params = merge_params(optax.apply_updates(trained, updates), frozen)
    if average:
      assert isinstance(state, AveragedState), 'call init_state with average=True'
      state = state.replace(average=_averaged(state.average, params, state.step, average))
    metrics = dict(
      loss=loss, accuracy=accuracy, grad_norm=optax.tree.norm(grads), lr=schedule(state.step)
    )
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

  return train_step


def make_eval_step(objective: Objective) -> Callable[..., Metrics]:
  """Make the function eval_step(params, batch, shard=WHOLE) -> sums over unmasked examples.

  Args:
    objective: the function that evaluates examples.

  Returns:
    eval_step. It returns sums over the whole batch: loss, correct, examples (int32 count). Where
    images may have several labels, those without any label are left out (ReaL, arXiv 2006.07159).
  """

  def eval_step(params: Params, batch: Batch, shard: Shard = WHOLE) -> Metrics:
    losses, correct = objective(params, batch, None)
    mask = batch['mask']
    if batch['label'].ndim == 2:
      mask &= batch['label'].any(-1)
    dtype = jnp.int32 if correct.dtype == bool else correct.dtype
    return shard.sum(
      dict(
        loss=jnp.sum(jnp.where(mask, losses, 0)),
        correct=jnp.sum(jnp.where(mask, correct, 0), dtype=dtype),
        examples=jnp.sum(mask, dtype=jnp.int32),
      )
    )

  return eval_step


def split_params(params: Params, trainable: TrainableFilter | None) -> tuple[Params, Params]:
  """Split parameters into (trained, frozen). The two trees have no empty branches."""
  if trainable is None:
    return params, {}
  flat = traverse_util.flatten_dict(params, sep='/')
  trained = {name: x for name, x in flat.items() if trainable(name)}
  frozen = {name: x for name, x in flat.items() if not trainable(name)}
  unflatten = functools.partial(traverse_util.unflatten_dict, sep='/')
  return unflatten(trained), unflatten(frozen)


def merge_params(trained: Params, frozen: Params) -> Params:
  """Undo `split_params`."""
  if not frozen:
    return trained
  flat = [traverse_util.flatten_dict(part, sep='/') for part in (trained, frozen)]
  return traverse_util.unflatten_dict(flat[0] | flat[1], sep='/')


def _split_passes(x: jax.Array, passes: int, num_devices: int) -> jax.Array:
  """Split rows into passes so that every row stays on its device: (B, ...) -> (passes, b, ...)."""
  if len(x) % (num_devices * passes):
    raise InputError(
      f'Cannot split the {len(x) // num_devices} examples of a device into {passes} accumulation '
      'passes. Change config.batch_size or config.accumulate.'
    )
  x = x.reshape(num_devices, passes, -1, *x.shape[1:]).swapaxes(0, 1)
  return x.reshape(passes, -1, *x.shape[3:])


def _averaged(average: Params, params: Params, step: jax.Array, factor: float) -> Params:
  """Return the mean of the parameters after each step, where each weighs `factor` times the next.

  The weights sum to 1 from the first step on, so nothing of the initial parameters remains.
  """
  weight = (1 - factor) / -jnp.expm1((step + 1) * math.log(factor))
  return jax.tree.map(lambda a, p: a + weight * (p - a), average, params)
