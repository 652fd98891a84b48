"""Export a checkpoint as a file that other programs run: StableHLO for JAX, or ONNX.

python -m vit_jax.tools.export --checkpoint=ViT-B_16-224.npz --out=vit_b16.stablehlo
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys

from vit_jax.errors import InputError, exit_on_error
from vit_jax.inference import checkpoint_args
from vit_jax.inference.export import DEFAULT_PLATFORMS, WEIGHTS, export_onnx, export_stablehlo

_STABLEHLO_USAGE = """Wrote {out}. Run it on images, (B, H, W, 3) uint8 RGB:
  from jax import export
  program = export.deserialize(open({out!r}, 'rb').read())
  probabilities = jax.jit(program.call)({arguments})"""
_ONNX_USAGE = "Wrote {out}: 'images', (B, H, W, 3) uint8 RGB, -> 'probabilities', (B, K) float32."


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  args = _parser().parse_args(argv)
  print(_export(args))
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.export', description=(__doc__ or '').split('\n')[0]
  )
  checkpoint_args.add_arguments(parser)
  add = parser.add_argument
  add(
    '--out',
    required=True,
    metavar='FILE',
    help='a new file; FILE.json, which describes it, is also written',
  )
  add(
    '--to',
    choices=['stablehlo', 'onnx'],
    default='stablehlo',
    help='format of the file (default: %(default)s)',
  )
  add(
    '--platforms',
    metavar='P,P',
    help='where a StableHLO program can run, from cpu, cuda, rocm, tpu (default: cpu,cuda,tpu)',
  )
  add(
    '--weights',
    choices=WEIGHTS,
    default='inside',
    help='write one file of up to 2 GiB, or the weights to a file beside it, which starts faster '
    '(default: %(default)s)',
  )
  return parser


def _export(args: argparse.Namespace) -> str:
  """Write the file, and return a message that says how to use it."""
  if args.to == 'onnx' and args.platforms:
    raise InputError(
      '--platforms is only for StableHLO. ONNX runs on every platform of ONNX Runtime.'
    )
  loaded, _ = checkpoint_args.load(args)
  names = checkpoint_args.class_names(args, loaded)
  options = {'loss': args.loss, 'weights': args.weights, 'class_names': names}
  if args.to == 'onnx':
    export_onnx(loaded.model, loaded.params, args.out, **options)
    return _ONNX_USAGE.format(out=args.out)
  platforms = args.platforms.split(',') if args.platforms else DEFAULT_PLATFORMS
  export_stablehlo(loaded.model, loaded.params, args.out, platforms=platforms, **options)
  weights_file = f'{args.out}.npz'
  weights = f'dict(np.load({weights_file!r})), ' if args.weights == 'beside' else ''
  return _STABLEHLO_USAGE.format(out=args.out, arguments=f'{weights}images')


if __name__ == '__main__':
  sys.exit(main())
