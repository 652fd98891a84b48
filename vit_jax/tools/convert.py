"""Convert a checkpoint between formats: published npz, timm, Hugging Face, Orbax.

python -m vit_jax.tools.convert ViT-B_16-224.npz vit_b16 --to=hf
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys

from vit_jax.errors import exit_on_error
from vit_jax.inference.checkpoint_args import image_size
from vit_jax.models.activation_functions import ACTIVATIONS
from vit_jax.pretrained.convert import convert
from vit_jax.pretrained.formats import FORMATS
from vit_jax.pretrained.metadata import Metadata
from vit_jax.pretrained.npz import SPELLINGS
from vit_jax.pretrained.resize import sides


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  args = _parser().parse_args(argv)
  known = Metadata(
    num_heads=args.num_heads,
    activation=args.activation,
    norm_eps=args.norm_eps,
    image_size=args.image_size and sides(args.image_size),
    pos_embedding=args.pos_embedding,
  )
  lines = convert(
    args.src, args.dst, args.to, spelling=args.spelling, known=known, force=args.force
  )
  print('\n'.join(lines))
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.convert', description=(__doc__ or '').split('\n')[0]
  )
  add = parser.add_argument
  add(
    'src',
    metavar='SRC',
    help='an npz file, a safetensors file of timm or Hugging Face or its directory, or an Orbax '
    'directory such as the workdir of a run; local, https:// or gs://',
  )
  add(
    'dst',
    metavar='DST',
    help='a new .npz file for npz; a new directory for orbax, timm or hf; or a new .safetensors '
    'file for timm or hf',
  )
  add('--to', choices=FORMATS, help='format of DST (default: npz if it ends in .npz, else orbax)')
  add(
    '--spelling',
    choices=SPELLINGS,
    default='pre_linen',
    help='spelling of the names in npz; the original code and timm read pre_linen '
    '(default: %(default)s)',
  )
  add(
    '--num_heads',
    type=int,
    help='number of attention heads in a safetensors file without a config.json (default: the '
    'usual number for its width)',
  )
  add(
    '--activation',
    choices=ACTIVATIONS,
    help='activation of the MLPs, for the config.json (default: the one that SRC records, else '
    'gelu_tanh)',
  )
  add(
    '--norm_eps',
    type=float,
    help='epsilon of the LayerNorms, for the config.json (default: the one that SRC records, else '
    '1e-6)',
  )
  add(
    '--pos_embedding',
    choices=['none', 'sincos2d'],
    help='position embedding of a model whose arrays have none, for the config.json (default: the '
    'one that SRC records)',
  )
  add(
    '--image_size',
    type=image_size,
    metavar='N|H,W',
    help='image size in pixels, for the config.json (default: the one that SRC records, else a '
    'square)',
  )
  add('--force', action='store_true', help='replace DST if it exists')
  return parser


if __name__ == '__main__':
  sys.exit(main())
