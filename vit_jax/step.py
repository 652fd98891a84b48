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

# image (B, H, W, 3) uint8, label (B,) int or multi-hot (B, K) uint8, mask (B,) bool
Batch = dict[str, jax.Array]
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
  """Per-example loss: logits (B, K), labels (B,) int or multi-hot (B, <= K) -> (B,).

  'softmax', or 'sigmoid': K independent binary losses, summed (how ImageNet-21k and JFT
  were pretrained). Label smoothing mixes the target with the uniform distribution.
  """
  targets = _multi_hot(labels, logits.shape[-1])
  targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
  if kind == 'softmax':
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
  if kind == 'sigmoid':
    return -jnp.sum(targets * jax.nn.log_sigmoid(logits) +
                    (1 - targets) * jax.nn.log_sigmoid(-logits), axis=-1)
  raise InputError(f'unknown loss {kind!r}; there are softmax, sigmoid')


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Whether the most probable class is the label, or one of them: (B, K), labels -> (B,) bool."""
  top = logits.argmax(-1)
  if labels.ndim == 1:
    return top == labels
  return jnp.take_along_axis(_multi_hot(labels, logits.shape[-1]), top[:, None], 1)[:, 0] > 0


def _multi_hot(labels: jax.Array, num_classes: int) -> jax.Array:
  """Labels (B,) or multi-hot -> (B, num_classes) float32; a head may be wider than the data."""
  if labels.ndim == 1:
    return jax.nn.one_hot(labels, num_classes)
  return jnp.pad(labels.astype(jnp.float32), ((0, 0), (0, num_classes - labels.shape[1])))


def make_train_step(model: nn.Module, optimizer: optax.GradientTransformation,
                    schedule: optax.Schedule, *, dropout_key: jax.Array, loss: str = 'softmax',
                    label_smoothing: float = 0., accumulate: int = 1) -> Callable[..., Any]:
  """Makes train_step(state, batch, shard=0, mean=identity, devices=1) -> (state, metrics).

  `batch` is either one device's share, number `shard`, of the global batch, `mean` averaging over
  the devices; or the global batch, spread over `devices`. Gradients are accumulated over
  `accumulate` equal parts of each device's share; dropout belongs to the example, so neither
  devices nor parts change what is computed. Examples with mask False (records that could not be
  read) add nothing to loss and gradient.

  Metrics are of this step, before its update: loss, accuracy, grad_norm (before clipping), lr.
  """

  def loss_and_accuracy(params, part, key):
    logits = model.apply({'params': params}, to_input(part['image']), train=True,
                         examples=part['example'], rngs={'dropout': key})
    losses = cross_entropy(logits, part['label'], kind=loss, label_smoothing=label_smoothing)
    correct = is_correct(logits, part['label'])
    return jnp.mean(losses * part['mask']), jnp.mean(correct * part['mask'])

  def train_step(state: TrainState, batch: Batch, shard: jax.Array | int = 0,
                 mean: Callable[[Any], Any] = lambda x: x,
                 devices: int = 1) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(dropout_key, state.step)
    size = len(batch['label'])
    if size % (devices * accumulate):
      raise InputError(f'{size // devices} examples do not divide into {accumulate} accumulation '
                       'passes')
    batch = batch | {'example': shard * size + jnp.arange(size)}
    grad_fn = jax.value_and_grad(loss_and_accuracy, has_aux=True)

    def split(x):  # (B, ...) -> (passes, B / passes, ...), every row staying on its device
      x = x.reshape(devices, accumulate, -1, *x.shape[1:]).swapaxes(0, 1)
      return x.reshape(accumulate, -1, *x.shape[3:])

    def accumulate_part(total, part):
      return jax.tree.map(jnp.add, total, grad_fn(state.params, part, key)), None

    if accumulate == 1:
      out = grad_fn(state.params, batch, key)
    else:
      zeros = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, state.params))
      total, _ = jax.lax.scan(accumulate_part, zeros, jax.tree.map(split, batch))
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
    correct = is_correct(logits, batch['label']) & batch['mask']
    return total(dict(loss=jnp.sum(jnp.where(batch['mask'], losses, 0)),
                      correct=jnp.sum(correct, dtype=jnp.int32),
                      examples=jnp.sum(batch['mask'], dtype=jnp.int32)))

  return eval_step
