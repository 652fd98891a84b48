"""Exports a checkpoint as a file that other programs run: StableHLO for JAX, or ONNX.

python -m vit_jax.tools.export --checkpoint=ViT-B_16-224.npz --out=vit_b16.stablehlo
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys

from vit_jax.errors import InputError, exit_on_error
from vit_jax.inference import checkpoint_args
from vit_jax.inference.export import WEIGHTS, export_onnx, export_stablehlo

_READ = """run it, for images (B, H, W, 3) uint8 RGB, with:
  from jax import export
  program = export.deserialize(open({out!r}, 'rb').read())
  probabilities = jax.jit(program.call)({arguments})"""


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  args = _parser().parse_args(argv)
  print(_export(args))
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.export', description=__doc__.split('\n')[0]
  )
  checkpoint_args.add_arguments(parser)
  add = parser.add_argument
  add('--out', required=True, metavar='FILE', help='a new file; FILE.json will describe it')
  add('--to', choices=['stablehlo', 'onnx'], default='stablehlo', help='default: %(default)s')
  add(
    '--platforms',
    metavar='P,P',
    help='where StableHLO shall run, of cpu, cuda, rocm, tpu (default: cpu,cuda,tpu)',
  )
  add(
    '--weights',
    choices=WEIGHTS,
    default='inside',
    help='one file for all, up to 2 GiB, or the '
    'weights in a file beside it, which starts faster (default: %(default)s)',
  )
  return parser


def _export(args: argparse.Namespace) -> str:
  """Writes the file; returns what to say."""
  loaded, run = checkpoint_args.load(args)
  options = dict(
    loss=checkpoint_args.loss(args, run),
    weights=args.weights,
    class_names=checkpoint_args.class_names(args, loaded),
  )
  if args.to == 'onnx':
    if args.platforms:
      raise InputError('--platforms is for StableHLO: ONNX runs wherever ONNX Runtime does')
    export_onnx(loaded.model, loaded.params, args.out, **options)
    return f"{args.out} is written: 'images', (B, H, W, 3) uint8 RGB, -> 'probabilities'"
  if args.platforms:
    options['platforms'] = args.platforms.split(',')
  export_stablehlo(loaded.model, loaded.params, args.out, **options)
  weights = f'dict(np.load({args.out + ".npz"!r})), ' if args.weights == 'beside' else ''
  return f'{args.out} is written; ' + _READ.format(out=args.out, arguments=weights + 'images')


if __name__ == '__main__':
  sys.exit(main())
