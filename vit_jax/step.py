"""What one step computes: pure functions, the same however they are spread over devices."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import optax

from vit_jax.errors import InputError
from vit_jax.models.io import to_input

Batch = dict[str, jax.Array]  # image (B, H, W, 3) uint8, label (B,) int, mask (B,) bool
Metrics = dict[str, jax.Array]


class TrainState(struct.PyTreeNode):
  """All that training carries from step to step; data and randomness follow from the step."""
  step: jax.Array  # steps done
  params: Any
  opt_state: Any


def init_state(model: nn.Module, optimizer: optax.GradientTransformation,
               key: jax.Array) -> TrainState:
  """A fresh state: parameters drawn from `key`, zero moments, step 0."""
  params = model.init(key, jnp.zeros((1, *model.image_size, 3)))['params']
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def cross_entropy(logits: jax.Array, labels: jax.Array, *, kind: str = 'softmax',
                  label_smoothing: float = 0.) -> jax.Array:
  """Per-example loss: logits (B, K), labels (B,) int -> (B,).

  'softmax', or 'sigmoid': K independent binary losses, summed (how ImageNet-21k and JFT
  were pretrained). Label smoothing mixes the target with the uniform distribution.
  """
  targets = jax.nn.one_hot(labels, logits.shape[-1])
  targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
  if kind == 'softmax':
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
  if kind == 'sigmoid':
    return -jnp.sum(targets * jax.nn.log_sigmoid(logits) +
                    (1 - targets) * jax.nn.log_sigmoid(-logits), axis=-1)
  raise InputError(f'unknown loss {kind!r}; there are softmax, sigmoid')


def make_train_step(model: nn.Module, optimizer: optax.GradientTransformation,
                    schedule: optax.Schedule, *, dropout_key: jax.Array, loss: str = 'softmax',
                    label_smoothing: float = 0., accumulate: int = 1) -> Callable[..., Any]:
  """Makes train_step(state, batch, shard=0, mean=identity) -> (state, metrics).

  `batch` is this device's share, number `shard`, of the global batch; `mean` averages over
  the devices. Gradients are accumulated over `accumulate` equal parts of the share; dropout
  belongs to the example, so neither devices nor parts change what is computed. Examples
  with mask False (records that could not be read) add nothing to loss and gradient.

  Metrics are of this step, before its update: loss, accuracy, grad_norm (before clipping), lr.
  """

  def loss_and_accuracy(params, part, first_example, key):
    logits = model.apply({'params': params}, to_input(part['image']), train=True,
                         first_example=first_example, rngs={'dropout': key})
    losses = cross_entropy(logits, part['label'], kind=loss, label_smoothing=label_smoothing)
    correct = logits.argmax(-1) == part['label']
    return jnp.mean(losses * part['mask']), jnp.mean(correct * part['mask'])

  def train_step(state: TrainState, batch: Batch, shard: jax.Array | int = 0,
                 mean: Callable[[Any], Any] = lambda x: x) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(dropout_key, state.step)
    share = len(batch['label'])
    if share % accumulate:
      raise InputError(f'{share} examples do not divide into {accumulate} accumulation passes')
    size = share // accumulate
    grad_fn = jax.value_and_grad(loss_and_accuracy, has_aux=True)

    def accumulate_part(total, i):
      part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size), batch)
      out = grad_fn(state.params, part, shard * share + i * size, key)
      return jax.tree.map(jnp.add, total, out), None

    if accumulate == 1:
      out = grad_fn(state.params, batch, shard * share, key)
    else:
      zeros = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, state.params))
      total, _ = jax.lax.scan(accumulate_part, zeros, jnp.arange(accumulate))
      out = jax.tree.map(lambda x: x / accumulate, total)
    (loss_value, accuracy), grads = mean(out)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = dict(loss=loss_value, accuracy=accuracy, grad_norm=optax.tree.norm(grads),
                   lr=schedule(state.step))
    return TrainState(state.step + 1, params, opt_state), metrics

  return train_step


def make_eval_step(model: nn.Module, *, loss: str = 'softmax') -> Callable[..., Metrics]:
  """Makes eval_step(params, batch, total=identity) -> sums over the unmasked examples.

  `total` sums over the devices. Returns loss (sum), correct and examples (int32 counts).
  """

  def eval_step(params: Any, batch: Batch,
                total: Callable[[Any], Any] = lambda x: x) -> Metrics:
    logits = model.apply({'params': params}, to_input(batch['image']))
    losses = cross_entropy(logits, batch['label'], kind=loss)
    correct = (logits.argmax(-1) == batch['label']) & batch['mask']
    return total(dict(loss=jnp.sum(jnp.where(batch['mask'], losses, 0)),
                      correct=jnp.sum(correct, dtype=jnp.int32),
                      examples=jnp.sum(batch['mask'], dtype=jnp.int32)))

  return eval_step
