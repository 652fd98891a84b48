"""What one step computes: pure functions, the same however they are spread over devices."""

from collections.abc import Callable
import math
from typing import Any

from flax import linen as nn
from flax import struct, traverse_util
import jax
import jax.numpy as jnp
import optax

from vit_jax.errors import InputError
from vit_jax.evaluation.accuracy import is_correct
from vit_jax.evaluation.losses import cross_entropy, multi_hot
from vit_jax.models.pixels import to_input

# image (B, H, W, 3) uint8, label (B,) int or multi-hot (B, K) uint8, mask (B,) bool
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
# (params, batch, key) -> losses (B,), and how far each example is right (B,): bool, or in [0, 1].
# Without a key as it is evaluated: nothing is random.
Objective = Callable[[Any, Batch, jax.Array | None], tuple[jax.Array, jax.Array]]
IsTrained = Callable[[str], bool]  # of a name such as 'Transformer/encoderblock_0/...'


class TrainState(struct.PyTreeNode):
  """All that training carries from step to step; data and randomness follow from the step."""

  step: jax.Array  # steps done
  params: Any
  opt_state: Any  # of the parameters that are trained


class AveragedState(TrainState):
  """A state with the average of the parameters over the steps (Polyak's)."""

  average: Any


def init_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  *,
  is_trained: IsTrained | None = None,
  average: bool = False,
) -> TrainState:
  """A fresh state: parameters drawn from `key`, zero moments, step 0.

  Args:
    is_trained: of a parameter's name, whether it is; None: all are.
    average: whether to keep an average of the parameters.
  """
  params = model.init(key, jnp.zeros((1, *model.image_size, 3)))['params']
  fields = dict(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(split_params(params, is_trained)[0]),
  )
  if average:
    return AveragedState(**fields, average=jax.tree.map(jnp.zeros_like, params))
  return TrainState(**fields)


def split_params(params: Any, is_trained: IsTrained | None) -> tuple[Any, Any]:
  """(the parameters that are trained, the others); the trees have no empty branches."""
  if is_trained is None:
    return params, {}
  flat = traverse_util.flatten_dict(params, sep='/')
  trained, frozen = (
    {k: v for k, v in flat.items() if is_trained(k) == which} for which in (True, False)
  )
  return (
    traverse_util.unflatten_dict(trained, sep='/'),
    traverse_util.unflatten_dict(frozen, sep='/'),
  )


def merge_params(trained: Any, frozen: Any) -> Any:
  """The inverse of `split_params`."""
  flat = [traverse_util.flatten_dict(part, sep='/') for part in (trained, frozen)]
  return traverse_util.unflatten_dict(flat[0] | flat[1], sep='/') if frozen else trained


def supervised(
  model: nn.Module, *, loss: str = 'softmax', label_smoothing: float = 0.0
) -> Objective:
  """The objective of classification: `cross_entropy` with an image's label.

  Images and labels are mixed with their partners where the batch has these (`mixup`); an image
  counts as correct by its own label, also then.
  """

  def objective(params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    images, labels = to_input(batch['image']), batch['label']
    targets = multi_hot(labels, model.num_classes)
    if 'share' in batch:
      others = multi_hot(batch['previous_label'], model.num_classes)
      images = _mix(images, to_input(batch['previous_image']), batch['share'])
      targets = _mix(targets, others, batch['share'])
    if key is None:
      logits = model.apply({'params': params}, images)
    else:
      logits = model.apply(
        {'params': params}, images, train=True, examples=batch['example'], rngs={'dropout': key}
      )
    smoothing = 0.0 if key is None else label_smoothing
    return (
      cross_entropy(logits, targets, kind=loss, label_smoothing=smoothing),
      is_correct(logits.argmax(-1), labels),
    )

  return objective


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  dropout_key: jax.Array,
  accumulate: int = 1,
  mixup: float = 0.0,
  average: float | None = None,
  is_trained: IsTrained | None = None,
) -> Callable[..., Any]:
  """Makes train_step(state, batch, shard=0, mean=identity, ...) -> (state, metrics).

  `batch` is either one device's share, number `shard`, of the global batch, `mean` averaging over
  the devices and `previous` giving for every row that before it in the global batch; or the global
  batch, spread over `devices`. Gradients are accumulated over `accumulate` equal parts of each
  device's share; dropout and mixup belong to the example, so neither devices nor parts change what
  is computed. Examples with mask False (records that could not be read) add nothing to loss and
  gradient.

  Args:
    objective: what is minimised; 'example' in its batch is each one's index in the global batch.
    dropout_key: of all that is random in a step.
    mixup: p of Beta(p, p), from which each step draws how far an image and its label are mixed
      with those before it in the batch (arXiv 1710.09412); 0: not at all.
    average: factor of the parameters' average (paper section 4.1 has .9999); None: there is none.
    is_trained: which parameters are; the others get no gradient.

  Metrics are of this step, before its update: loss, accuracy, grad_norm (before clipping), lr.
  """

  def loss_and_accuracy(trained, frozen, part, key):
    losses, correct = objective(merge_params(trained, frozen), part, key)
    return jnp.mean(losses * part['mask']), jnp.mean(correct * part['mask'])

  def train_step(
    state: TrainState,
    batch: Batch,
    shard: jax.Array | int = 0,
    mean: Callable[[Any], Any] = lambda x: x,
    previous: Callable[[jax.Array], jax.Array] = lambda x: jnp.roll(x, 1, axis=0),
    devices: int = 1,
  ) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(dropout_key, state.step)
    size = len(batch['label'])
    if size % (devices * accumulate):
      raise InputError(
        f'{size // devices} examples do not divide into {accumulate} accumulation passes'
      )
    batch = batch | {'example': shard * size + jnp.arange(size)}
    if mixup:
      batch |= _partners(batch, mixup, jax.random.fold_in(key, _MIXUP), previous)
    trained, frozen = split_params(state.params, is_trained)
    grad_fn = jax.value_and_grad(loss_and_accuracy, has_aux=True)

    def split(x):  # (B, ...) -> (passes, B / passes, ...), every row staying on its device
      x = x.reshape(devices, accumulate, -1, *x.shape[1:]).swapaxes(0, 1)
      return x.reshape(accumulate, -1, *x.shape[3:])

    def accumulate_part(total, part):
      return jax.tree.map(jnp.add, total, grad_fn(trained, frozen, part, key)), None

    if accumulate == 1:
      out = grad_fn(trained, frozen, batch, key)
    else:
      zeros = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, trained))
      total, _ = jax.lax.scan(accumulate_part, zeros, jax.tree.map(split, batch))
      out = jax.tree.map(lambda x: x / accumulate, total)
    (loss_value, accuracy), grads = mean(out)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    params = merge_params(optax.apply_updates(trained, updates), frozen)
    metrics = dict(
      loss=loss_value, accuracy=accuracy, grad_norm=optax.tree.norm(grads), lr=schedule(state.step)
    )
    if average:
      state = state.replace(average=_averaged(state.average, params, state.step, average))
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

  return train_step


_MIXUP = 2**32 - 1  # folded into a step's key, as no example's index can be


def _partners(
  batch: Batch, mixup: float, key: jax.Array, previous: Callable[[jax.Array], jax.Array]
) -> Batch:
  """The image and label that each example is mixed with, and its own share of the mixture."""
  share = jax.random.beta(key, mixup, mixup)
  share = jnp.maximum(share, 1 - share)  # an image stays itself more than the other
  return {
    'previous_image': previous(batch['image']),
    'previous_label': previous(batch['label']),
    'share': jnp.where(previous(batch['mask']), share, 1.0),
  }  # not with an unreadable one


def _mix(x: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
  share = share.reshape(-1, *[1] * (x.ndim - 1))
  return share * x + (1 - share) * other


def _averaged(average: Any, params: Any, step: jax.Array, factor: float) -> Any:
  """The mean of the parameters after each step, each weighing `factor` times the next.

  The weights sum to 1 from the first step on, so that nothing of the initial parameters stays.
  """
  weight = (1 - factor) / -jnp.expm1((step + 1) * math.log(factor))
  return jax.tree.map(lambda a, p: a + weight * (p - a), average, params)


def make_eval_step(objective: Objective) -> Callable[..., Metrics]:
  """Makes eval_step(params, batch, total=identity) -> sums over the unmasked examples.

  `total` sums over the devices. Returns loss and correct (sums) and examples (int32 count). Where
  images have several labels, those without any are left out (ReaL, arXiv 2006.07159).
  """

  def eval_step(params: Any, batch: Batch, total: Callable[[Any], Any] = lambda x: x) -> Metrics:
    losses, correct = objective(params, batch, None)
    mask = batch['mask']
    if batch['label'].ndim == 2:
      mask &= batch['label'].any(-1)
    counts = jnp.int32 if correct.dtype == bool else correct.dtype
    return total(
      dict(
        loss=jnp.sum(jnp.where(mask, losses, 0)),
        correct=jnp.sum(jnp.where(mask, correct, 0), dtype=counts),
        examples=jnp.sum(mask, dtype=jnp.int32),
      )
    )

  return eval_step
