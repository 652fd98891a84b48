"""Find the encoder among the arrays of a PyTorch file, which may hold more than one model.

Files of pretraining also have a decoder, a projection head, or a student beside its teacher. Files
of image-text models have a text encoder. Wrappers such as DistributedDataParallel put a prefix
before every name.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
import re
from typing import NamedTuple

from vit_jax.errors import InputError, shortlist
from vit_jax.pretrained import torch_layout

# Warning about the arrays that are left out: path, encoder, modules.
READ_ONLY = '%s: Read only %s and left out arrays that it does not use: %s.'
# Modules beside an encoder that its features do not pass through.
_BESIDE = re.compile(
  r'(decoder|predict(or|ion)|pred_head|project(or|ion)|proj_head|(dino|ibot|mim|lm|contrastive)_'
  r'|momentum|teacher|student|target|ema|text|txt|visual_projection|logit_(scale|bias)'
  r'|optim|loss|queue|center|head\.(\d|mlp|last_layer|projection))',
  re.IGNORECASE,
)
# If a file has several encoders, the one that its authors evaluate comes first.
_PREFERRED = (
  r'(^|[._])(teacher|target_encoder|ema|model_ema|ema_model)[._]',
  r'(^|[._])(base_encoder|encoder_q|online_encoder|student)[._]',
  r'(^|[._])(visual|vision|image|img)',
)
_CHUNKED = r'blocks\.(\d+)\.(\d+)(\..*)'  # a block in a chunk of blocks, as in DINOv2's training


class Encoder(NamedTuple):
  """The arrays of a file that belong to its encoder."""

  kind: str  # 'timm' or 'hf'
  prefix: str  # before the encoder's names in the file
  names: dict[
    str, str
  ]  # {name in the file: prefix and the name that timm or Hugging Face gives it}
  left_out: list[str]  # names of the other arrays in the file


def find_encoder(names: Sequence[str]) -> Encoder | None:
  """Return the encoder among the arrays of a file, or None if there is none.

  Raises:
    InputError: there are several, and their names do not say which to read.
  """
  dialect = torch_layout.find_dialect(names)
  if dialect is None:
    return None
  kind = dialect[0]
  prefix = _choose_prefix(torch_layout.encoder_prefixes(names, kind))
  found = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
  found = {name: short for name, short in found.items() if not is_beside(short)}
  # A head, and sometimes the class token or the positions, may lie outside the encoder's module.
  known = set(found.values())
  for outer in _outer_prefixes(prefix):
    for name in names:
      short = name.removeprefix(outer)
      if name.startswith(outer) and short not in known and torch_layout.is_known(short, kind):
        found[name] = short
        known.add(short)
  renamed = {name: prefix + short for name, short in _usual_names(found).items()}
  return Encoder(kind, prefix, renamed, [name for name in names if name not in found])


def is_beside(name: str) -> bool:
  """Return True if the name, relative to the encoder, is that of a module beside the encoder."""
  return _BESIDE.match(name) is not None or name.endswith('mask_token')


def describe(names: Sequence[str], prefix: str) -> str:
  """Return which modules the names belong to, with the number of arrays in each.

  Args:
    names: names of arrays that are not part of the encoder.
    prefix: prefix of the encoder. Modules beside it are named, but not the parts of a module.
  """
  counts = Counter(_module(name, prefix) for name in names)
  return shortlist(f'{name} ({n:,} array{"s" * (n > 1)})' for name, n in sorted(counts.items()))


def _module(name: str, prefix: str) -> str:
  parts, within = name.split('.'), prefix.split('.')
  shared = next((i for i, (a, b) in enumerate(zip(parts, within)) if a != b), len(within) - 1)
  return '.'.join(parts[: shared + 1])


def _choose_prefix(prefixes: Iterable[str]) -> str:
  """Return the prefix of the encoder to read."""
  prefixes = list(prefixes)
  prefixes = [p for p in prefixes if not re.search(r'(^|\.)(decoder|text|txt)', p)] or prefixes
  if '' in prefixes or len(prefixes) == 1:
    return min(prefixes, key=len)
  for pattern in _PREFERRED:
    chosen = [prefix for prefix in prefixes if re.search(pattern, prefix)]
    if len(chosen) == 1:
      return chosen[0]
  raise InputError(
    f'It holds {len(prefixes)} encoders, and their names do not say which one to read: '
    f'{shortlist(p + "*" for p in prefixes)}. Keep the arrays of one of them.'
  )


def _outer_prefixes(prefix: str) -> list[str]:
  """Return the prefixes of the modules that contain a module: 'a.b.' -> ['a.', '']."""
  parts = prefix.split('.')[:-1]
  return [''.join(f'{part}.' for part in parts[:n]) for n in reversed(range(len(parts)))]


def _usual_names(found: dict[str, str]) -> dict[str, str]:
  """Translate Meta's names of registers, and of blocks that were trained in chunks, to timm's."""
  chunked = {m.groups()[:2] for short in found.values() if (m := re.fullmatch(_CHUNKED, short))}
  numbers = _block_numbers({(int(chunk), int(block)) for chunk, block in chunked})

  def usual(short: str) -> str:
    if match := re.fullmatch(_CHUNKED, short):
      return f'blocks.{numbers[int(match[1]), int(match[2])]}{match[3]}'
    return 'reg_token' if short == 'register_tokens' else short

  return {name: usual(short) for name, short in found.items()}


def _block_numbers(chunked: set[tuple[int, int]]) -> dict[tuple[int, int], int]:
  """Return {(chunk, number in the file): number of the block}.

  DINOv2 numbers blocks across its chunks. Numbers that start again in each chunk work, too.
  """
  if len({block for _, block in chunked}) == len(chunked):
    return {(chunk, block): block for chunk, block in chunked}
  return {key: i for i, key in enumerate(sorted(chunked))}
