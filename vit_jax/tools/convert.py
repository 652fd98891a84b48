"""Converts a checkpoint between the formats: published npz, timm, Hugging Face, Orbax.

python -m vit_jax.tools.convert ViT-B_16-224.npz vit_b16 --to=hf
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import sys

from vit_jax.errors import InputError, exit_on_error
from vit_jax.inference.checkpoint_args import image_size
from vit_jax.models.layers import ACTIVATIONS
from vit_jax.pretrained.formats import FORMATS, PUBLISHED, format_for, read_checkpoint, write_arrays
from vit_jax.pretrained.metadata import Metadata
from vit_jax.pretrained.npz import SPELLINGS


def convert(
  src: str,
  dst: str,
  *,
  to: str | None = None,
  spelling: str = 'pre_linen',
  num_heads: int | None = None,
  activation: str | None = None,
  norm_eps: float | None = None,
  image_size: int | tuple[int, int] | None = None,
  force: bool = False,
) -> list[str]:
  """Reads `src` and writes the same numbers to `dst`; returns lines that say what was done.

  Args:
    src: what `read_checkpoint` reads.
    dst: a new path; .npz: a file; orbax: a directory; timm, hf: a directory, which gets
      model.safetensors and config.json, or a .safetensors file.
    to: 'npz', 'timm', 'hf' or 'orbax'; None: npz when `dst` ends so, else orbax.
    spelling: of npz names, 'pre_linen' or 'linen'.
    num_heads, activation, norm_eps, image_size: what `src` does not tell or tells wrongly.
    force: replaces what is at `dst`.

  Raises:
    InputError: `src` cannot be read, `dst` is there, or the format cannot hold the model.
  """
  if os.path.lexists(os.path.expanduser(dst)) and not force:
    raise InputError(f'{dst} is there already: give another name, or --force to replace it')
  to = format_for(dst, to)
  arrays, metadata = read_checkpoint(src, num_heads=num_heads)
  if isinstance(image_size, int):
    image_size = (image_size, image_size)
  given = dict(activation=activation, norm_eps=norm_eps, image_size=image_size)
  metadata = metadata._replace(**{k: v for k, v in given.items() if v is not None})
  if to in ('timm', 'hf') and metadata.activation is None and metadata.format in ('timm', 'hf'):
    raise InputError(
      f'{src} has no config.json that tells its activation: give --activation=gelu, '
      "timm's and Hugging Face's usual one, or gelu_tanh, the published npz files'"
    )
  notes = _notes(metadata, to)
  outputs = len(arrays.get('head/bias', ()))
  if metadata.class_names and to in ('timm', 'hf') and len(metadata.class_names) != outputs:
    notes.append(
      f'note: {len(metadata.class_names)} names of classes are left out, since the head '
      f'has {outputs} outputs'
    )
    metadata = metadata._replace(class_names=None)
  write_arrays(arrays, dst, to, metadata=metadata, spelling=spelling)
  count = f'{len(arrays)} arrays, {sum(x.size for x in arrays.values()):,} parameters'
  return [f'{src}: {metadata.format}, {count}', f'{dst}: {to}, the same numbers', *notes]


def _notes(metadata: Metadata, to: str) -> list[str]:
  """What the reader of the new file should know."""
  if to == 'npz':
    unusual = [
      f'{k}={getattr(metadata, k)}'
      for k in ('activation', 'norm_eps')
      if getattr(metadata, k) not in (None, getattr(PUBLISHED, k))
    ]
    if metadata.image_mean and {*metadata.image_mean, *metadata.image_std} != {0.5}:
      unusual.append(f'image_mean={metadata.image_mean}, image_std={metadata.image_std}')
    unusual += ['the names of the classes'] * bool(metadata.class_names)
    return [f'note: npz does not keep {", ".join(unusual)}'] * bool(unusual)
  if to == 'orbax':
    return []
  assumed = [
    f'{k}={getattr(PUBLISHED, k)}'
    for k in ('activation', 'norm_eps')
    if getattr(metadata, k) is None
  ]
  return [f'note: {", ".join(assumed)} taken for granted, as in the published models'] * bool(
    assumed
  )


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.convert', description=__doc__.split('\n')[0]
  )
  parser.add_argument(
    'src',
    metavar='SRC',
    help='npz, or safetensors of timm or Hugging Face (a '
    'file or its directory), or an Orbax directory, such as the workdir of a '
    'run; local, https:// or gs://',
  )
  parser.add_argument(
    'dst',
    metavar='DST',
    help='a new .npz file; a new directory for orbax, timm '
    'and hf, or a .safetensors file for the last two',
  )
  parser.add_argument('--to', choices=FORMATS, help='default: npz or orbax, by the name of DST')
  parser.add_argument(
    '--spelling',
    choices=SPELLINGS,
    default='pre_linen',
    help='of the names in npz; pre_linen: what the original code and timm read '
    '(default: %(default)s)',
  )
  parser.add_argument(
    '--num_heads',
    type=int,
    help='of safetensors without a config.json (default: as usual for the width)',
  )
  parser.add_argument(
    '--activation',
    choices=ACTIVATIONS,
    help='of the MLPs, for the config.json (default: as SRC says, else gelu_tanh)',
  )
  parser.add_argument(
    '--norm_eps',
    type=float,
    help='of the LayerNorms, for the config.json (default: as SRC says, else 1e-6)',
  )
  parser.add_argument(
    '--image_size',
    type=image_size,
    metavar='N|H,W',
    help='pixels, for the config.json (default: as SRC says, else a square)',
  )
  parser.add_argument('--force', action='store_true', help='replaces what is at DST')
  lines = convert(**vars(parser.parse_args(argv)))
  print('\n'.join(lines))
  return 0


if __name__ == '__main__':
  sys.exit(main())
