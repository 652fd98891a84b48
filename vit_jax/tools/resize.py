"""Resize a checkpoint to another image size, patch size, or both (paper section 3.2, FlexiViT).

  python -m vit_jax.tools.resize ViT-B_16.npz B_16_384.npz --image_size=384

Training and load_params resize position embeddings by themselves. Use this tool for another
interpolation, for another patch size, or for other programs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import sys

from vit_jax.errors import exit_on_error
from vit_jax.inference.checkpoint_args import image_size
from vit_jax.pretrained.posembed import METHODS
from vit_jax.pretrained.resize import NewSize, Resized, resize_checkpoint
from vit_jax.pretrained.usage_flags import command


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  args = _parser().parse_args(argv)
  new_size = NewSize(args.image_size, args.patch_size, args.old_image_size, args.method)
  resized = resize_checkpoint(
    args.ckpt, args.out, new_size, num_heads=args.num_heads, force=args.force
  )
  for name, (old, new) in resized.shapes.items():
    print(f'{name}: {old} -> {new}')
  first, *others = _next_steps(args, resized)
  print('\n'.join([f'Wrote {args.out}. {first}', *others]))
  return 0


def _next_steps(args: argparse.Namespace, resized: Resized) -> Iterator[str]:
  """Yield sentences that show how to use the result, with every flag that is needed."""
  is_square = isinstance(args.image_size, int)
  if is_square:  # training takes no others
    start = f'--config.init_from={args.out}', f'--config.image_size={args.image_size}'
    train = command('main', '--config=FILE', '--workdir=DIR', *start, *resized.config_flags)
    yield f'Train from it with: {train}'
  if resized.tool_flags or not is_square:
    predict = command('tools.predict', f'--checkpoint={args.out}', *resized.tool_flags, 'IMAGE')
    yield f'Predict with it: {predict}'


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.resize', description=(__doc__ or '').split('\n')[0]
  )
  add = parser.add_argument
  add(
    'ckpt',
    metavar='CKPT',
    help='an npz file, a safetensors file of timm or Hugging Face or its directory, or an Orbax '
    'directory such as the workdir of a run',
  )
  add(
    'out',
    metavar='OUT',
    help='a new .npz file; a new .safetensors file if CKPT is one; otherwise a new Orbax directory',
  )
  add(
    '--image_size', type=image_size, required=True, metavar='N|H,W', help='new image size in pixels'
  )
  add('--patch_size', type=int, metavar='N', help='new patch size in pixels (default: as before)')
  add(
    '--method',
    choices=METHODS,
    default='bilinear',
    help="interpolation: the paper's bilinear with aligned corners, or timm's half_pixel or "
    'bicubic (default: %(default)s)',
  )
  add(
    '--old_image_size',
    type=image_size,
    metavar='N|H,W',
    help='image size in pixels that CKPT is for (default: the one that it records, else a square)',
  )
  add(
    '--num_heads',
    type=int,
    help='number of attention heads in a safetensors file without a config.json (default: the '
    'usual number for its width)',
  )
  add('--force', action='store_true', help='replace OUT if it exists')
  return parser


if __name__ == '__main__':
  sys.exit(main())
