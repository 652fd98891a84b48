"""The arithmetic of attention, softmax(q k^T) v, in the ways that suit different devices.

Each computes the same function. B examples, H heads, L queries, M keys, K channels of a head.
"""

from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from vit_jax.errors import InputError

Arrays = tuple[jax.Array, ...]
KEPT = 'attention'  # names the results of 'by_head', which remat='dots' keeps
# On TPUs, the compiler keeps the logits of one head in fast memory. A step with 'by_head' moves a
# quarter to two thirds of the bytes with 197 to 1,025 tokens (see RESULTS.md). Logits of shorter
# sequences are small beside the other activations.
_BY_HEAD_FROM = 128


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  relative: jax.Array | None = None,
  implementation: str | None = None,
) -> jax.Array:
  """Return softmax(q k^T) v of each head, with the softmax in float32: (B, H, L, K).

  Args:
    q: queries, (B, H, L, K), divided by sqrt(K).
    k: keys, (B, H, M, K).
    v: values, (B, H, M, K).
    relative: embeddings (2L-1, H, K) of the offsets -(L-1)..L-1. They are the keys of a second
      attention, whose logits are added (paper D.4). Only 'plain' has them.
    implementation: one of IMPLEMENTATIONS. None: what suits the platform and the length.
  """
  if relative is not None:
    return _plain(q, k, v, relative)
  if implementation is None:
    long = q.shape[2] >= _BY_HEAD_FROM
    implementation = 'by_head' if long and target_platform() == 'tpu' else 'plain'
  return IMPLEMENTATIONS[implementation](q, k, v)


def target_platform() -> str:
  """Return the platform that the current function is traced for, such as 'cpu' or 'tpu'.

  It is that of the current mesh, whose devices need not be attached.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else jax.default_backend()


def _plain(
  q: jax.Array, k: jax.Array, v: jax.Array, relative: jax.Array | None = None
) -> jax.Array:
  """Attend with all heads at once. The weights are kept for the backward pass."""
  logits = attention_logits(q, k)
  if relative is not None:
    logits += relative_logits(q, relative.astype(q.dtype))
  weights = jax.nn.softmax(logits).astype(v.dtype)  # (B, H, L, M)
  return jnp.einsum('bhlm,bhmk->bhlk', weights, v)


@jax.custom_vjp
def attention_logits(q: jax.Array, k: jax.Array) -> jax.Array:
  """Multiply queries (B, H, L, K) by keys (B, H, M, K): (B, H, L, M) in float32.

  The backward pass multiplies in the type of the queries, like that of every other layer. JAX's own
  backward pass would multiply in float32, which takes several times as long on bfloat16 matrix
  units.
  """
  return jnp.einsum('bhlk,bhmk->bhlm', q, k, preferred_element_type=jnp.float32)


def _attention_logits_forward(
  q: jax.Array, k: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return attention_logits(q, k), (q, k)


def _attention_logits_backward(
  operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  q, k = operands
  gradient = gradient.astype(q.dtype)
  return jnp.einsum('bhlm,bhmk->bhlk', gradient, k), jnp.einsum('bhlm,bhlk->bhmk', gradient, q)


attention_logits.defvjp(_attention_logits_forward, _attention_logits_backward)


def relative_logits(q: jax.Array, embedding: jax.Array) -> jax.Array:
  """Multiply queries (B, H, L, K) by the embedding (2L-1, H, K) of each key's offset.

  Returns (B, H, L, L) in float32. Element [..., l, m] uses row m - l + L - 1 of the embedding. Each
  row of products is padded by one element and read back one element shorter, which shifts row l to
  the left by l without a gather.
  """
  b, h, l, _ = q.shape
  logits = jnp.einsum('bhlk,nhk->bhln', q, embedding, preferred_element_type=jnp.float32)
  flat = jnp.pad(logits, ((0, 0),) * 3 + ((0, 1),)).reshape(b, h, 2 * l * l)
  return flat[..., l - 1 : l - 1 + l * (2 * l - 1)].reshape(b, h, l, 2 * l - 1)[..., :l]


@jax.custom_vjp
def _by_head(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attend with one head after the other, so that its logits stay in fast memory.

  Only arrays of the size of q are kept. The backward pass computes the logits again.
  """
  return _scan_heads(_attend_head, q, k, v)[0]


def _by_head_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Arrays]:
  y, log_sums = (checkpoint_name(x, KEPT) for x in _scan_heads(_attend_head, q, k, v))
  return y, (q, k, v, y, log_sums)


def _by_head_backward(kept: Arrays, gradient: jax.Array) -> Arrays:
  return _scan_heads(_head_gradients, *kept, gradient)


_by_head.defvjp(_by_head_forward, _by_head_backward)


def _scan_heads(function: Callable[..., Arrays], *arrays: jax.Array) -> Arrays:
  """Apply a function of arrays (B, L, ...) to each head of arrays (B, H, L, ...)."""
  heads = tuple(jnp.swapaxes(x, 0, 1) for x in arrays)
  _, results = jax.lax.scan(lambda _, head: (None, function(*head)), None, heads)
  return tuple(jnp.swapaxes(x, 0, 1) for x in results)


def _attend_head(q: jax.Array, k: jax.Array, v: jax.Array) -> Arrays:
  """Return (attention of one head (B, L, K), log of the sum of each row's exponentials (B, L))."""
  logits = _product('blk,bmk->blm', q, k)
  largest = logits.max(-1, keepdims=True)
  exponentials = jnp.exp(logits - largest)
  sums = exponentials.sum(-1, keepdims=True)
  weights = (exponentials / sums).astype(v.dtype)
  return jnp.einsum('blm,bmk->blk', weights, v), (largest + jnp.log(sums))[..., 0]


def _head_gradients(
  q: jax.Array, k: jax.Array, v: jax.Array, y: jax.Array, log_sums: jax.Array, gradient: jax.Array
) -> Arrays:
  """Return the gradients of (q, k, v) of one head, from what `_attend_head` returned."""
  weights = jnp.exp(_product('blk,bmk->blm', q, k) - log_sums[..., None])
  dv = jnp.einsum('blm,blk->bmk', weights.astype(v.dtype), gradient)
  # A softmax's gradient needs the sum of weight times gradient in each row, which is y . dy.
  mean = jnp.einsum('blk,blk->bl', y, gradient, preferred_element_type=jnp.float32)
  logits_gradient = weights * (_product('blk,bmk->blm', gradient, v) - mean[..., None])
  logits_gradient = logits_gradient.astype(q.dtype)
  dq = jnp.einsum('blm,bmk->blk', logits_gradient, k)
  dk = jnp.einsum('blm,blk->bmk', logits_gradient, q)
  return dq, dk, dv


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attend in NVIDIA's fused kernel, which keeps no weights either."""
  if jax.default_backend() != 'gpu':
    raise InputError(
      "attention_implementation='cudnn' needs an NVIDIA GPU in this machine, but JAX uses "
      f"{jax.default_backend()!r}. Use 'plain' or 'by_head', or leave it out."
    )
  q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # (B, H, L, K) -> (B, L, H, K)
  y = jax.nn.dot_product_attention(q, k, v, scale=1.0, implementation='cudnn')
  return jnp.swapaxes(y, 1, 2)


IMPLEMENTATIONS = {'plain': _plain, 'by_head': _by_head, 'cudnn': _cudnn}
