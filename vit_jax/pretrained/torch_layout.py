"""Translate names and layouts of arrays between ours and those of timm and Hugging Face.

PyTorch stores a dense kernel as (out, in) and a convolution as (out, in, h, w), and does not split
the heads. So every array differs from ours by a name, a transpose and a reshape.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import re

import numpy as np

from vit_jax.errors import InputError, shortlist
from vit_jax.pretrained.npz import POSITIONS

_ATTENTION = 'MultiHeadDotProductAttention_0'
_BLOCK = 'Transformer/encoderblock_#'  # '#' stands for the number of a block
# (their module, our module, kind of layout in _KINDS)
_TIMM = (
  ('patch_embed.proj', 'embedding', 'conv'),
  ('norm_pre', 'Transformer/pre_norm', 'norm'),
  ('blocks.#.norm1', f'{_BLOCK}/LayerNorm_0', 'norm'),
  ('blocks.#.attn.q', f'{_BLOCK}/{_ATTENTION}/query', 'heads'),
  ('blocks.#.attn.k', f'{_BLOCK}/{_ATTENTION}/key', 'heads'),
  ('blocks.#.attn.v', f'{_BLOCK}/{_ATTENTION}/value', 'heads'),
  ('blocks.#.attn.proj', f'{_BLOCK}/{_ATTENTION}/out', 'out'),
  ('blocks.#.ls1', f'{_BLOCK}/LayerScale_0', 'gamma'),
  ('blocks.#.norm2', f'{_BLOCK}/LayerNorm_1', 'norm'),
  ('blocks.#.mlp.fc1', f'{_BLOCK}/MlpBlock_0/Dense_0', 'dense'),
  ('blocks.#.mlp.fc2', f'{_BLOCK}/MlpBlock_0/Dense_1', 'dense'),
  ('blocks.#.ls2', f'{_BLOCK}/LayerScale_1', 'gamma'),
  ('norm', 'Transformer/encoder_norm', 'norm'),
  ('attn_pool.q', f'MAPHead_0/{_ATTENTION}/query', 'heads'),
  ('attn_pool.k', f'MAPHead_0/{_ATTENTION}/key', 'heads'),
  ('attn_pool.v', f'MAPHead_0/{_ATTENTION}/value', 'heads'),
  ('attn_pool.proj', f'MAPHead_0/{_ATTENTION}/out', 'out'),
  ('attn_pool.norm', 'MAPHead_0/LayerNorm_0', 'norm'),
  ('attn_pool.mlp.fc1', 'MAPHead_0/MlpBlock_0/Dense_0', 'dense'),
  ('attn_pool.mlp.fc2', 'MAPHead_0/MlpBlock_0/Dense_1', 'dense'),
  ('pre_logits.fc', 'pre_logits', 'dense'),  # written by timm up to 0.6
  ('head', 'head', 'dense'),
)
_TIMM_TOKENS = {
  'cls_token': 'cls',
  'reg_token': 'registers',
  'pos_embed': POSITIONS,
  'attn_pool.latent': 'MAPHead_0/probe',
}
_HF_ENDS = (
  ('embeddings.patch_embeddings.projection', 'embedding', 'conv'),
  ('layernorm', 'Transformer/encoder_norm', 'norm'),
  ('pooler.dense', 'pre_logits', 'dense'),
  ('classifier', 'head', 'dense'),
)
_HF_ATTENTION = (
  ('encoder.layer.#.attention.attention.query', f'{_BLOCK}/{_ATTENTION}/query', 'heads'),
  ('encoder.layer.#.attention.attention.key', f'{_BLOCK}/{_ATTENTION}/key', 'heads'),
  ('encoder.layer.#.attention.attention.value', f'{_BLOCK}/{_ATTENTION}/value', 'heads'),
  ('encoder.layer.#.attention.output.dense', f'{_BLOCK}/{_ATTENTION}/out', 'out'),
)
_VIT = (
  ('encoder.layer.#.layernorm_before', f'{_BLOCK}/LayerNorm_0', 'norm'),
  ('encoder.layer.#.layernorm_after', f'{_BLOCK}/LayerNorm_1', 'norm'),
  ('encoder.layer.#.intermediate.dense', f'{_BLOCK}/MlpBlock_0/Dense_0', 'dense'),
  ('encoder.layer.#.output.dense', f'{_BLOCK}/MlpBlock_0/Dense_1', 'dense'),
)
_DINOV2 = (
  ('encoder.layer.#.norm1', f'{_BLOCK}/LayerNorm_0', 'norm'),
  ('encoder.layer.#.layer_scale1', f'{_BLOCK}/LayerScale_0', 'lambda1'),
  ('encoder.layer.#.norm2', f'{_BLOCK}/LayerNorm_1', 'norm'),
  ('encoder.layer.#.mlp.fc1', f'{_BLOCK}/MlpBlock_0/Dense_0', 'dense'),
  ('encoder.layer.#.mlp.fc2', f'{_BLOCK}/MlpBlock_0/Dense_1', 'dense'),
  ('encoder.layer.#.layer_scale2', f'{_BLOCK}/LayerScale_1', 'lambda1'),
)
_HF_TOKENS = {
  'embeddings.cls_token': 'cls',
  'embeddings.register_tokens': 'registers',
  'embeddings.position_embeddings': POSITIONS,
}
# {name in memory: name in files} for transformers 5, which renames modules when it loads and saves.
# A state_dict that a user saved directly has the names in memory.
_HF_ALIASES = {
  'attention.q_proj': 'attention.attention.query',
  'attention.k_proj': 'attention.attention.key',
  'attention.v_proj': 'attention.attention.value',
  'attention.o_proj': 'attention.output.dense',
}
# {pattern: reason} for names of arrays in models that create_model cannot build.
_UNSUPPORTED = {
  r'fc_norm\.': 'it has a LayerNorm after pooling (fc_norm), but our heads have it before',
  r'dist(illation)?_token$|head_dist\.': 'it has a distillation token (DeiT)',
  r'\.[qk]_norm\.': 'it normalizes queries and keys',
  r'\.mlp\.(w12|fc1_g|weights_in)': 'its MLP is gated (SwiGLU)',
  r'\.attn\.norm\.|\.mlp\.norm\.': 'it has a LayerNorm inside attention or the MLP',
  r'rel_pos|relative_position': 'its relative positions differ from ours',
  r'(^|\.)(rope|rotary)': 'it has rotary position embeddings',
  r'patch_embed\.backbone\.': 'it is a hybrid, which only npz files hold in our layout',
}

Convert = Callable[[np.ndarray, int], np.ndarray]  # (array, number of heads) -> array
# {their parameter: (our parameter, convert theirs to ours, convert ours to theirs)}
_Layout = dict[str, tuple[str, Convert, Convert]]
_same: Convert = lambda x, h: x
_transpose = lambda x, h: x.T
_conv_to_ours = lambda x, h: x.transpose(2, 3, 1, 0)
_conv_to_theirs = lambda x, h: x.transpose(3, 2, 0, 1)
_heads_to_ours = lambda x, h: x.T.reshape(x.shape[1], h, -1)
_heads_to_theirs = lambda x, h: x.reshape(len(x), -1).T
_heads_bias_to_ours = lambda x, h: x.reshape(h, -1)
_heads_bias_to_theirs = lambda x, h: x.reshape(-1)
_out_to_ours = lambda x, h: x.T.reshape(h, -1, len(x))
_out_to_theirs = lambda x, h: x.reshape(-1, x.shape[-1]).T

_BIAS: _Layout = {'bias': ('bias', _same, _same)}
_KINDS: dict[str, _Layout] = {
  'norm': {'weight': ('scale', _same, _same)} | _BIAS,
  'dense': {'weight': ('kernel', _transpose, _transpose)} | _BIAS,
  'conv': {'weight': ('kernel', _conv_to_ours, _conv_to_theirs)} | _BIAS,
  'heads': {
    'weight': ('kernel', _heads_to_ours, _heads_to_theirs),
    'bias': ('bias', _heads_bias_to_ours, _heads_bias_to_theirs),
  },
  'out': {'weight': ('kernel', _out_to_ours, _out_to_theirs)} | _BIAS,
  'gamma': {'gamma': ('scale', _same, _same)},
  'lambda1': {'lambda1': ('scale', _same, _same)},
}


def _table(
  modules: Iterable[tuple[str, str, str]], tokens: Mapping[str, str]
) -> dict[str, tuple[str, Convert, Convert]]:
  """Return {their name: (our name, convert theirs to ours, convert ours to theirs)}."""
  table = {theirs: (ours, _same, _same) for theirs, ours in tokens.items()}
  for theirs, ours, kind in modules:
    for parameter, (name, to_ours, to_theirs) in _KINDS[kind].items():
      table[f'{theirs}.{parameter}'] = (f'{ours}/{name}', to_ours, to_theirs)
  return table


_READ = {
  'timm': _table(_TIMM, _TIMM_TOKENS),
  'hf': _table(_HF_ENDS + _HF_ATTENTION + _VIT + _DINOV2, _HF_TOKENS),
}
_WRITE = {
  'timm': _table([m for m in _TIMM if m[1] != 'pre_logits'], _TIMM_TOKENS),
  'vit': _table(_HF_ENDS + _HF_ATTENTION + _VIT, _HF_TOKENS),
  'dinov2': _table(_HF_ENDS + _HF_ATTENTION + _DINOV2, _HF_TOKENS),
}
# The array that shows where the names of an encoder begin.
_MARKS = {'hf': r'(?<![^.])embeddings\.patch_embeddings\.', 'timm': r'(?<![^.])patch_embed\.proj\.'}
_PATCH_KERNEL = {
  'timm': 'patch_embed.proj.weight',
  'hf': 'embeddings.patch_embeddings.projection.weight',
}


def find_dialect(names: Iterable[str]) -> tuple[str, str] | None:
  """Return ('timm' or 'hf', prefix of the backbone's names), or None if it is neither."""
  for name in names:
    for kind, mark in _MARKS.items():
      if match := re.search(mark, name):
        return kind, name[: match.start()]
  return None


def encoder_prefixes(names: Iterable[str], kind: str) -> list[str]:
  """Return the prefix of each encoder's names, in the order of the names."""
  matches = [(name, re.search(_MARKS[kind], name)) for name in names]
  return list(dict.fromkeys(name[: match.start()] for name, match in matches if match))


def is_known(name: str, kind: str) -> bool:
  """Return True if an encoder of this kind, or its head, can have an array of this name."""
  parts = _split_names(name if kind == 'timm' else _saved_name(name))
  return all(_without_number(part)[0] in _READ[kind] for part in parts)


def patch_kernel_name(kind: str, prefix: str) -> str:
  """Return the name of the patch embedding's kernel, which is (D, C, p, p)."""
  return prefix + _PATCH_KERNEL[kind]


def unsupported_part(names: Collection[str]) -> str | None:
  """Return why create_model cannot build a model with these arrays, or None if no name says so."""
  reasons = (
    f'{reason}: {name}'
    for pattern, reason in _UNSUPPORTED.items()
    for name in names
    if re.search(pattern, name)
  )
  return next(reasons, None)


def from_torch(
  tensors: Iterable[tuple[str, np.ndarray]], kind: str, prefix: str, num_heads: int
) -> dict[str, np.ndarray]:
  """Translate PyTorch's arrays to {canonical name: array}, one at a time.

  An array with an unknown name keeps it, so that the caller can report it.

  Args:
    tensors: (name, array) pairs.
    kind: 'timm' or 'hf'.
    prefix: prefix of the backbone's names, from `find_dialect`.
    num_heads: number of attention heads.

  Raises:
    InputError: an array cannot be split into heads, or two arrays have the same meaning.
  """
  arrays = {}
  for full_name, whole in tensors:
    short = full_name.removeprefix(prefix)
    parts = _split_projection(short, whole) if is_known(short, kind) else [(short, whole)]
    for name, tensor in parts:
      pattern, block = _without_number(name if kind == 'timm' else _saved_name(name))
      ours, to_ours, _ = _READ[kind].get(pattern, (full_name, _same, _same))
      try:
        array = to_ours(tensor, num_heads)
      except (ValueError, TypeError, IndexError) as e:
        raise _wrong_shape(full_name, whole.shape, num_heads, to_ours) from e
      ours = ours.replace('#', block)
      if ours in arrays:
        raise InputError(f'Two arrays mean {ours}. One of them is {full_name}. Remove one of them.')
      arrays[ours] = np.require(array, requirements=['C', 'W'])
  return arrays


def to_torch(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
  """Translate {canonical name: array} to PyTorch's names and layouts, without a prefix.

  Args:
    arrays: {canonical name: array}.
    kind: 'timm', or one of Hugging Face's two models, 'vit' and 'dinov2'.

  Raises:
    InputError: the format has no place for some arrays.
  """
  table = {ours: (theirs, convert) for theirs, (ours, _, convert) in _WRITE[kind].items()}
  tensors, unsupported = {}, []
  for name, array in arrays.items():
    pattern, block = _without_number(name)
    if pattern not in table:
      unsupported.append(name)
      continue
    theirs, convert = table[pattern]
    tensors[theirs.replace('#', block)] = convert(array, 0)  # needs no number of heads
  if unsupported:
    library = 'timm' if kind == 'timm' else 'Hugging Face'
    raise InputError(
      f'{library} has no place for {shortlist(unsupported)}. Write npz or orbax instead, which '
      'hold every model.'
    )
  if kind == 'timm':
    tensors = dict(_fuse_projections(tensors))
  return {name: np.ascontiguousarray(x) for name, x in tensors.items()}


def _wrong_shape(name: str, shape: tuple[int, ...], num_heads: int, to_ours: Convert) -> InputError:
  """Return the error for an array whose shape does not allow to change its layout."""
  if to_ours is _conv_to_ours:
    return InputError(
      f'{name} has the shape {shape}, but the patch embedding must be a convolution of images, '
      '(width, colors, height, width). Give a model of images whose patches a convolution embeds.'
    )
  return InputError(
    f'{name} of shape {shape} does not fit {num_heads} attention heads. Give another num_heads.'
  )


def _saved_name(name: str) -> str:
  """Translate a name in a state_dict of transformers 5 to the name in its files."""
  name = re.sub(r'^layers\.(\d+\.)', r'encoder.layer.\1', name)
  for new, saved in _HF_ALIASES.items():
    name = name.replace(new, saved)
  return name


def _without_number(name: str) -> tuple[str, str]:
  """Split off a block's number: 'blocks.3.norm1.bias' -> ('blocks.#.norm1.bias', '3')."""
  match = re.fullmatch(r'(blocks\.|encoder\.layer\.|Transformer/encoderblock_)(\d+)(\D.*)', name)
  return (f'{match[1]}#{match[3]}', match[2]) if match else (name, '')


def _split_projection(name: str, tensor: np.ndarray) -> list[tuple[str, np.ndarray]]:
  """Split a fused projection: 'attn.qkv.weight' (3D, D) -> attn.q.weight (D, D), attn.k, attn.v."""
  names = _split_names(name)
  if tensor.ndim == 0 or len(tensor) % len(names):
    return [(name, tensor)]
  return list(zip(names, np.split(tensor, len(names))))


def _split_names(name: str) -> list[str]:
  """Return the names of the parts of a projection, 'attn.q.weight' and so on, or only `name`."""
  name = re.sub(r'\.(attn|attn_pool)\.([qkv])_proj\.', r'.\1.\2.', name)
  match = re.fullmatch(r'(.*)\.(qkv|kv)\.(weight|bias)', name)
  return [f'{match[1]}.{letter}.{match[3]}' for letter in match[2]] if match else [name]


def _fuse_projections(tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
  """Undo `_split_projection` as in timm: fuse q, k, v in the blocks, and k, v in the pooling."""
  for name, tensor in tensors.items():
    match = re.fullmatch(r'(.*(?:attn|attn_pool)\.)([qkv])\.(weight|bias)', name)
    letters = 'kv' if match and 'attn_pool' in name else 'qkv'
    if not match or match[2] not in letters:
      yield name, tensor
    elif match[2] == letters[0]:
      parts = [tensors[f'{match[1]}{letter}.{match[3]}'] for letter in letters]
      yield f'{match[1]}{letters}.{match[3]}', np.concatenate(parts)
