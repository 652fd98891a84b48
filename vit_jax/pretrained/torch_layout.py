"""timm's and Hugging Face's names and layouts of a Vision Transformer, both ways.

PyTorch keeps a dense kernel as (out, in) and a convolution as (out, in, h, w), and does not
split the heads: every array is a rename and a transpose away from ours.
"""

from collections.abc import Callable, Iterable, Mapping
import re

import numpy as np

from vit_jax.errors import InputError, shortlist
from vit_jax.pretrained.npz import POSITIONS, with_cls_row

_ATTENTION = 'MultiHeadDotProductAttention_0'
_BLOCK = 'Transformer/encoderblock_#'  # '#' stands for the number of a block
# (their module, our module, kind). Kinds say how weight and bias are laid out.
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
  ('pre_logits.fc', 'pre_logits', 'dense'),  # until timm 0.6
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
# transformers 5 renames in memory and back in files; a state_dict saved by hand has these.
_HF_ALIASES = {
  'attention.q_proj': 'attention.attention.query',
  'attention.k_proj': 'attention.attention.key',
  'attention.v_proj': 'attention.attention.value',
  'attention.o_proj': 'attention.output.dense',
}
# Arrays by which a file is known to be of a model that we do not build.
_FOREIGN = {
  r'fc_norm\.': 'it normalises after pooling (fc_norm), which our heads do before',
  r'dist(illation)?_token$|head_dist\.': 'it has a distillation token (DeiT)',
  r'\.[qk]_norm\.': 'it normalises queries and keys',
  r'\.mlp\.(w12|fc1_g|weights_in)': 'its MLP is gated (SwiGLU)',
  r'\.attn\.norm\.|\.mlp\.norm\.': 'it normalises inside attention or the MLP',
  r'rel_pos|relative_position': 'its relative positions are not ours',
}

# parameter of a module -> (ours, to ours, to theirs); h is the number of heads.
_Layout = dict[str, tuple[str, Callable, Callable]]
_same = lambda x, h: x
_transposed = lambda x, h: x.T
_KINDS: dict[str, _Layout] = {
  'norm': {'weight': ('scale', _same, _same), 'bias': ('bias', _same, _same)},
  'dense': {'weight': ('kernel', _transposed, _transposed), 'bias': ('bias', _same, _same)},
  'conv': {
    'weight': (
      'kernel',
      lambda x, h: x.transpose(2, 3, 1, 0),
      lambda x, h: x.transpose(3, 2, 0, 1),
    ),
    'bias': ('bias', _same, _same),
  },
  'heads': {
    'weight': (
      'kernel',
      lambda x, h: x.T.reshape(x.shape[1], h, -1),
      lambda x, h: x.reshape(len(x), -1).T,
    ),
    'bias': ('bias', lambda x, h: x.reshape(h, -1), lambda x, h: x.reshape(-1)),
  },
  'out': {
    'weight': (
      'kernel',
      lambda x, h: x.T.reshape(h, -1, len(x)),
      lambda x, h: x.reshape(-1, x.shape[-1]).T,
    ),
    'bias': ('bias', _same, _same),
  },
  'gamma': {'gamma': ('scale', _same, _same)},
  'lambda1': {'lambda1': ('scale', _same, _same)},
}


def _table(modules, tokens):
  """{their name: (our name, to ours, to theirs)}."""
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


def dialect(names: Iterable[str]) -> tuple[str, str] | None:
  """('timm' or 'hf', prefix of the backbone's names), or None when it is neither."""
  for name in names:
    for mark, kind in (('embeddings.patch_embeddings.', 'hf'), ('patch_embed.proj.', 'timm')):
      if mark in name:
        return kind, name[: name.index(mark)]
  return None


def misfit(names: Iterable[str]) -> str | None:
  """Why a file of these names cannot be one of our models, when a name tells."""
  return next(
    (
      f'{why}: {name}'
      for pattern, why in _FOREIGN.items()
      for name in names
      if re.search(pattern, name)
    ),
    None,
  )


def from_torch(
  tensors: Iterable[tuple[str, np.ndarray]], kind: str, prefix: str, num_heads: int
) -> dict[str, np.ndarray]:
  """PyTorch's (name, array) pairs, one at a time -> {canonical name: array}.

  Names that mean nothing to us are kept as they are, for the caller to report.

  Raises:
    InputError: naming an array that cannot be cut into heads, or comes twice.
  """
  arrays = {}
  for full_name, whole in tensors:
    for name, tensor in _unfused(full_name.removeprefix(prefix), whole):
      pattern, block = _without_number(name if kind == 'timm' else _saved_name(name))
      ours, to_ours, _ = _READ[kind].get(pattern, (full_name, _same, _same))
      try:
        array = to_ours(tensor, num_heads)
      except (ValueError, TypeError, IndexError) as e:
        raise InputError(
          f'{full_name} of shape {whole.shape} does not go with {num_heads} attention heads'
        ) from e
      ours = ours.replace('#', block)
      if ours in arrays:
        raise InputError(f'two arrays are {ours}, {full_name} is one of them')
      arrays[ours] = np.require(array, requirements=['C', 'W'])
  return arrays


def to_torch(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
  """{canonical name: array} -> PyTorch's names and layouts, without a prefix.

  Args:
    kind: 'timm', 'vit' or 'dinov2' (Hugging Face's two).

  Raises:
    InputError: naming the arrays that the format has no place for.
  """
  table = {ours: (theirs, convert) for theirs, (ours, _, convert) in _WRITE[kind].items()}
  tensors, homeless = {}, []
  for name, array in arrays.items():
    pattern, block = _without_number(name)
    if pattern not in table:
      homeless.append(name)
      continue
    theirs, convert = table[pattern]
    tensors[theirs.replace('#', block)] = convert(array, None)
  if homeless:
    where = 'timm' if kind == 'timm' else 'Hugging Face'
    raise InputError(
      f'{where} has no place for {shortlist(homeless)}; npz and orbax hold every model'
    )
  if kind == 'timm':
    tensors = dict(_fused(tensors))
  return {name: np.ascontiguousarray(x) for name, x in tensors.items()}


def _saved_name(name):
  """The name in a file of transformers, from that of a state_dict in memory."""
  name = re.sub(r'^layers\.(\d+\.)', r'encoder.layer.\1', name)
  for new, saved in _HF_ALIASES.items():
    name = name.replace(new, saved)
  return name


def _without_number(name):
  """'blocks.3.norm1.bias' -> ('blocks.#.norm1.bias', '3')."""
  match = re.fullmatch(r'(blocks\.|encoder\.layer\.|Transformer/encoderblock_)(\d+)(\D.*)', name)
  return (f'{match[1]}#{match[3]}', match[2]) if match else (name, '')


def _unfused(name, tensor):
  """Splits a fused projection: 'attn.qkv.weight' (3D, D) -> attn.q.weight, ... of (D, D)."""
  name = re.sub(r'\.(attn|attn_pool)\.([qkv])_proj\.', r'.\1.\2.', name)
  match = re.fullmatch(r'(.*)\.(qkv|kv)\.(weight|bias)', name)
  if not match or len(tensor) % len(match[2]):
    return [(name, tensor)]
  parts = np.split(tensor, len(match[2]))
  return [(f'{match[1]}.{letter}.{match[3]}', x) for letter, x in zip(match[2], parts)]


def _fused(tensors):
  """The inverse of `_unfused`, as timm has them: qkv in the blocks, kv in the pooling."""
  for name, tensor in tensors.items():
    match = re.fullmatch(r'(.*(?:attn|attn_pool)\.)([qkv])\.(weight|bias)', name)
    letters = 'kv' if match and 'attn_pool' in name else 'qkv'
    if not match or match[2] not in letters:
      yield name, tensor
    elif match[2] == letters[0]:
      parts = [tensors[f'{match[1]}{letter}.{match[3]}'] for letter in letters]
      yield f'{match[1]}{letters}.{match[3]}', np.concatenate(parts)


def read_positions(arrays: dict[str, np.ndarray], num_patches: int | None) -> None:
  """Brings PyTorch's three habits of position embeddings to ours, in place.

  Ours has a row for the class token and none for registers. Theirs may lack the first (a zero
  row is put in) or have the second (timm without no_embed_class: those rows are added to the
  registers, where they always end up).

  Args:
    num_patches: of the grid, where it is known; else a grid is taken to be square.
  """
  positions = arrays.get(POSITIONS)
  if positions is None or positions.ndim != 3:
    return
  registers = arrays.get('registers')
  num_registers = 0 if registers is None else registers.shape[1]
  num_cls = int('cls' in arrays)
  rows = positions.shape[1]

  def grid(n):
    return n == num_patches or (n > 0 and round(n**0.5) ** 2 == n)

  if num_registers and not grid(rows - num_cls) and grid(rows - num_cls - num_registers):
    own = positions[:, num_cls : num_cls + num_registers]
    if own.any():
      arrays['registers'] = registers + own
    arrays[POSITIONS] = np.delete(positions, np.s_[num_cls : num_cls + num_registers], axis=1)
  elif num_cls and rows != (num_patches or 0) + 1 and grid(rows):
    arrays[POSITIONS] = with_cls_row(positions)


def write_positions(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
  """For timm: (arrays, no_embed_class); a class token's row of zeros is left out.

  Registers never have rows, so next to a class token's row they get rows of zeros.
  """
  arrays = dict(arrays)
  positions = arrays.get(POSITIONS)
  has_registers = 'registers' in arrays
  if positions is None or 'cls' not in arrays:
    return arrays, has_registers
  if not positions[:, 0].any():
    arrays[POSITIONS] = positions[:, 1:]
    return arrays, True
  if has_registers:
    zeros = np.zeros_like(arrays['registers'])
    arrays[POSITIONS] = np.concatenate([positions[:, :1], zeros, positions[:, 1:]], axis=1)
  return arrays, False
