"""Write one HTML page about a training run, which needs no other file and no network.

  python -m vit_jax.tools.report runs/mine

The page shows config, learning curves, final metrics, speed, the figures of vit_jax.tools.figures,
images that the newest checkpoint predicts correctly and wrongly, and checkpoints. Where a run lacks
something, the page says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import sys

from vit_jax.errors import InputError, exit_on_error
from vit_jax.files import local_path, replacing
from vit_jax.report.build import make_report


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  args = _parser().parse_args(argv)
  if args.num_images < 1:
    raise InputError(f'--num_images must be at least 1, but it is {args.num_images}.')
  out = local_path(args.out or pathlib.Path(args.workdir, 'report.html'))
  text = make_report(args.workdir, num_images=args.num_images, batch_size=args.batch_size)
  with replacing(out) as path:
    path.write_text(text, encoding='utf-8', errors='backslashreplace')
  print(f'wrote {out} ({out.stat().st_size / 1e6:.1f} MB)')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.report',
    description=(__doc__ or '').split('\n')[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="""examples:
  python -m vit_jax.tools.report runs/mine
  python -m vit_jax.tools.report runs/mine --out=mine.html --num_images=1024""",
  )
  add = parser.add_argument
  add('workdir', metavar='WORKDIR', help='directory of the run, which may still be training')
  add('--out', metavar='FILE', help='file to write (default: WORKDIR/report.html)')
  add(
    '--num_images',
    type=int,
    default=256,
    metavar='N',
    help='number of evenly spaced images of the evaluation split to predict and to look at '
    '(default: %(default)s)',
  )
  add(
    '--batch_size',
    type=int,
    default=16,
    metavar='N',
    help='number of images to compute at once (default: %(default)s)',
  )
  return parser


if __name__ == '__main__':
  sys.exit(main())
