"""The arithmetic of attention, softmax(q k^T) v, in the ways that suit different devices.

Each computes the same function. B examples, H heads, L queries, M keys, K channels of a head.
"""

from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.typing import DTypeLike

from vit_jax.errors import InputError, unknown
from vit_jax.models.placement import nvidia_generation, target_platform

Arrays = tuple[jax.Array, ...]
KEPT = 'attention'  # names the results of 'by_head', which remat='dots' keeps
# On TPUs, the compiler keeps the logits of one head in fast memory. A step with 'by_head' moves a
# quarter to two thirds of the bytes with 197 to 1,025 tokens (see RESULTS.md). Logits of shorter
# sequences are small beside the other activations.
_BY_HEAD_FROM = 128
_CUDNN_WIDTHS = range(8, 129, 8)  # of a head, on all GPUs that have this kernel


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  relative: jax.Array | None = None,
  implementation: str = 'plain',
) -> jax.Array:
  """Return softmax(q k^T) v of each head, with the softmax in float32: (B, H, L, K).

  Args:
    q: queries, (B, H, L, K), divided by sqrt(K).
    k: keys, (B, H, M, K).
    v: values, (B, H, M, K).
    relative: embeddings (2L-1, H, K) of the offsets -(L-1)..L-1. They are the keys of a second
      attention, whose logits are added (paper D.4). Only 'plain' has them.
    implementation: 'plain' or 'by_head'. 'cudnn' is `cudnn_attention`.
  """
  if relative is not None or implementation == 'plain':
    return _plain(q, k, v, relative)
  if implementation == 'by_head':
    return _by_head(q, k, v)
  raise unknown('implementation', implementation, ('plain', 'by_head'))


def suitable_implementation(length: int, width: int, dtype: DTypeLike) -> str:
  """Return the implementation that suits the platform which the current function is traced for.

  Args:
    length: number of tokens, L.
    width: channels of a head, K.
    dtype: type of the computation.
  """
  platform = target_platform()
  if platform == 'tpu' and length >= _BY_HEAD_FROM:
    return 'by_head'
  if (
    platform == 'gpu'
    and jnp.dtype(dtype) == jnp.bfloat16
    and width in _CUDNN_WIDTHS
    and _has_cudnn()
  ):
    return 'cudnn'
  return 'plain'


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


def cudnn_attention(q: jax.Array, k: jax.Array, v: jax.Array, queries: int, keys: int) -> jax.Array:
  """Return softmax(q k^T / sqrt(K)) v in NVIDIA's fused kernel, which keeps no weights.

  JAX refuses odd lengths in the backward pass, although they concern only logits with a bias. So
  the lengths are even here (see `even_length`), and what follows the first `queries` and `keys`
  tokens is padding. Its result and its gradients are zero.

  Args:
    q: queries, (B, L, H, K), not yet divided by sqrt(K).
    k: keys, (B, M, H, K).
    v: values, (B, M, H, K).
    queries: number of queries, L or L - 1.
    keys: number of keys, M or M - 1.

  Returns:
    (B, L, H, K)
  """
  if not _has_cudnn():
    raise InputError(
      "attention_implementation='cudnn' needs an NVIDIA GPU from Ampere on in this machine, but "
      f"JAX uses {jax.devices()[0].device_kind!r}. Use 'plain' or 'by_head', or leave it out."
    )
  padded = (queries, keys) != (q.shape[1], k.shape[1])
  # A constant for each example, which jax.vmap batches and a mesh splits like the queries.
  each = lambda length: jnp.where(q[:, 0, 0, 0] == 0, length, length).astype(jnp.int32)
  lengths = (each(queries), each(keys)) if padded else (None, None)
  return jax.nn.dot_product_attention(
    q, k, v, query_seq_lengths=lengths[0], key_value_seq_lengths=lengths[1], implementation='cudnn'
  )


def even_length(x: jax.Array) -> jax.Array:
  """Append a token of zeros to x, (B, L, ...), if L is odd."""
  return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2)) + ((0, 0),) * (x.ndim - 2))


def _has_cudnn() -> bool:
  """Return True if JAX uses an NVIDIA GPU that has cuDNN's fused attention."""
  return nvidia_generation() >= 8


IMPLEMENTATIONS = ('plain', 'by_head', 'cudnn')
