"""Resizes a checkpoint to another image size, patch size, or both (paper section 3.2, FlexiViT).

  python -m vit_jax.tools.resize ViT-B_16.npz B_16_384.npz --image_size=384

Training and load_params resize position embeddings by themselves; this is for another method of
interpolation, another patch size, and other programs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys

from vit_jax.errors import exit_on_error
from vit_jax.inference.checkpoint_args import image_size
from vit_jax.pretrained.posembed import METHODS
from vit_jax.pretrained.resize import resize_checkpoint


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.resize', description=__doc__.split('\n')[0]
  )
  parser.add_argument(
    'ckpt',
    metavar='CKPT',
    help='npz, or safetensors of timm or Hugging Face '
    '(a file or its directory), or an Orbax directory, such as the workdir of a '
    'run',
  )
  parser.add_argument(
    'out',
    metavar='OUT',
    help='a new file ending in .npz; in .safetensors, when '
    'CKPT is such; else a new Orbax directory',
  )
  parser.add_argument(
    '--image_size', type=image_size, required=True, metavar='N|H,W', help='pixels of the new images'
  )
  parser.add_argument(
    '--patch_size', type=int, metavar='N', help='pixels of the new patches (default: as they are)'
  )
  parser.add_argument(
    '--method',
    choices=METHODS,
    default='bilinear',
    help="of interpolation; bilinear: the paper's, corners aligned; half_pixel, "
    "bicubic: timm's (default: %(default)s)",
  )
  parser.add_argument(
    '--old_image_size',
    type=image_size,
    metavar='N|H,W',
    help='pixels that CKPT is for (default: as it says, else a square)',
  )
  parser.add_argument(
    '--num_heads',
    type=int,
    help='of safetensors without a config.json (default: as usual for the width)',
  )
  parser.add_argument('--force', action='store_true', help='replaces what is at OUT')
  args = parser.parse_args(argv)
  changes = resize_checkpoint(
    **{k: v for k, v in vars(args).items() if k != 'ckpt'}, path=args.ckpt
  )
  for name, (old, new) in changes.items():
    print(f'{name}: {old} -> {new}')
  print(f'{args.out} is written; {_next(args)}')
  return 0


def _next(args):
  """What can be done with the result."""
  if isinstance(args.image_size, tuple):
    return (
      f'load it with load_params({args.out!r}, create_model(..., image_size={args.image_size}))'
    )
  patch = f' --config.model=NAME/{args.patch_size}' if args.patch_size else ''
  return (
    'train on from it with: python -m vit_jax.main --config=FILE --workdir=DIR '
    f'--config.init_from={args.out} --config.image_size={args.image_size}{patch}'
  )


if __name__ == '__main__':
  sys.exit(main())
