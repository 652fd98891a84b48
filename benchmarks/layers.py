"""Time several ways to write the hot spots of a ViT, forward and backward.

  python -m benchmarks.layers --variant=B/16 --batch_size=8 --dtype=float32

Each row is a median over interleaved rounds. Its ratio is to the first row of the group.
"""

import argparse
import statistics
import time

from flax import linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models.dot_product_attention import attend, cudnn_attention, even_length
from vit_jax.models.dropout import Dropout
from vit_jax.models.layers import MultiHeadDotProductAttention
from vit_jax.models.sizes import VARIANTS


def patchify_ways(patch):
  def reshape_matmul(p, x):
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)
    return x @ p['kernel'].reshape(-1, p['kernel'].shape[-1])

  def einsum(p, x):
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return jnp.einsum('bhpwqc,pqcd->bhwd', x, p['kernel']).reshape(b, -1, p['kernel'].shape[-1])

  def convolution(p, x):
    y = jax.lax.conv_general_dilated(
      x, p['kernel'], (patch, patch), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return y.reshape(x.shape[0], -1, y.shape[-1])

  return dict(reshape_matmul=reshape_matmul, einsum=einsum, convolution=convolution)


def projection_ways():
  def three_einsums(p, x):
    return [jnp.einsum('bld,dhk->blhk', x, p[n]) for n in 'qkv']

  def three_matmuls(p, x):
    heads = p['q'].shape[1:]
    return [(x @ p[n].reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], *heads) for n in 'qkv']

  def one_fused(p, x):
    kernel = jnp.stack([p[n] for n in 'qkv'], axis=1)  # (D, 3, H, K)
    y = (x @ kernel.reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], *kernel.shape[1:])
    return [y[:, :, i] for i in range(3)]

  return dict(three_einsums=three_einsums, three_matmuls=three_matmuls, one_fused=one_fused)


def attention_ways(dtype):
  def library(p, x):
    del p
    return jax.nn.dot_product_attention(*x)

  def einsum_f32_softmax(p, x):
    del p
    q, k, v = x
    logits = jnp.einsum(
      'blhk,bmhk->bhlm', q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits).astype(v.dtype)
    return jnp.einsum('bhlm,bmhk->blhk', weights, v)

  def heads_first(p, x):
    del p
    q, k, v = (jnp.swapaxes(a, 1, 2) for a in x)  # (B, H, L, K)
    logits = jax.lax.dot_general(
      q * q.shape[-1] ** -0.5,
      k,
      (((3,), (3,)), ((0, 1), (0, 1))),
      preferred_element_type=jnp.float32,
    )
    weights = jax.nn.softmax(logits).astype(v.dtype)
    out = jax.lax.dot_general(weights, v, (((3,), (2,)), ((0, 1), (0, 1))))
    return jnp.swapaxes(out, 1, 2)

  def ours(implementation):
    def way(p, x):
      del p
      q, k, v = (jnp.swapaxes(a, 1, 2) for a in x)
      out = attend(q * q.shape[-1] ** -0.5, k, v, implementation=implementation)
      return jnp.swapaxes(out, 1, 2)

    return way

  def cudnn(p, x):
    del p
    length = x[0].shape[1]
    return cudnn_attention(*map(even_length, x), length, length)[:, :length]

  ways = dict(library=library, einsum_f32_softmax=einsum_f32_softmax, heads_first=heads_first)
  ways |= {name: ours(name) for name in ('plain', 'by_head')}
  if jax.default_backend() == 'gpu' and dtype != jnp.float32:
    ways['cudnn'] = cudnn
  return ways


def sublayer_ways(width, heads, dtype, x):
  """Return the self-attention layers of this package and of Flax."""
  ours = MultiHeadDotProductAttention(heads, dtype)
  flax = nn.MultiHeadDotProductAttention(heads, dtype=dtype)
  params = {
    'ours': jax.jit(ours.init)(jax.random.key(0), x),
    'flax': jax.jit(flax.init)(jax.random.key(0), x),
  }
  return dict(
    flax_linen=lambda p, x: flax.apply(p['flax'], x), ours=lambda p, x: ours.apply(p['ours'], x)
  ), params


def dropout_ways():
  """Return this package's dropout, with a key per example, and Flax's, with one per batch."""
  key = jax.random.key(0)
  flax, ours = nn.Dropout(0.1, deterministic=False), Dropout(0.1, site=0)
  keys = lambda x: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(x)))
  return dict(
    flax_linen=lambda p, x: flax.apply(p, x, rngs={'dropout': key}),
    ours=lambda p, x: ours.apply(p, x, keys(x)),
  )


def measure(ways, params, x, rounds, argnums=(0, 1)):
  """Return the median seconds of compiled forward and backward passes, run in turn."""

  def loss(way):
    return lambda p, x: sum(
      jnp.sum(jnp.sin(y.astype(jnp.float32))) for y in jax.tree.leaves(way(p, x))
    )

  steps = {n: jax.jit(jax.grad(loss(w), argnums)) for n, w in ways.items()}
  times = {n: [] for n in ways}
  for _ in range(rounds + 1):
    for name, step in steps.items():
      start = time.perf_counter()
      jax.block_until_ready(step(params, x))
      times[name].append(time.perf_counter() - start)
  return {n: statistics.median(t[1:]) for n, t in times.items()}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--variant', default='B/16', help='e.g. S/16, B/16, L/16')
  parser.add_argument('--batch_size', type=int, default=8)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
  parser.add_argument('--rounds', type=int, default=15)
  args = parser.parse_args()
  name, patch = args.variant.split('/')
  patch, size, dtype = int(patch), VARIANTS[name], jnp.dtype(args.dtype)
  width, heads = size.hidden_dim, size.num_heads
  length = (args.image_size // patch) ** 2 + 1
  key = iter(jax.random.split(jax.random.key(0), 16))
  normal = lambda *shape: jax.random.normal(next(key), shape, dtype)
  qkv = lambda: normal(args.batch_size, length, heads, width // heads)
  tokens = normal(args.batch_size, length, width)
  sublayers, sublayer_params = sublayer_ways(width, heads, dtype, tokens)
  groups = {
    'patch embedding': (
      patchify_ways(patch),
      {'kernel': normal(patch, patch, 3, width)},
      normal(args.batch_size, args.image_size, args.image_size, 3),
    ),
    'qkv projection': (
      projection_ways(),
      {n: normal(width, heads, width // heads) for n in 'qkv'},
      tokens,
    ),
    'attention': (attention_ways(dtype), {}, [qkv() for _ in range(3)]),
    'sublayer': (sublayers, sublayer_params, tokens),
    'dropout': (dropout_ways(), {}, normal(args.batch_size, length, size.mlp_dim)),
  }
  print(f'{args.variant}, batch {args.batch_size}, {args.dtype}, {jax.devices()[0].device_kind}')
  for group, (ways, params, x) in groups.items():
    # A model needs no gradient with respect to its images.
    medians = measure(ways, params, x, args.rounds, 0 if group == 'patch embedding' else (0, 1))
    first = next(iter(medians.values()))
    for way, seconds in medians.items():
      print(f'{group:16} {way:20} {seconds * 1e3:9.2f} ms  {seconds / first:5.2f}')


if __name__ == '__main__':
  main()
