"""Evaluates a checkpoint on a data set: every image of a split counts exactly once.

  python -m vit_jax.tools.evaluate --checkpoint=ViT-B_16-224.npz --dataset=imagenet2012

Prints top-1 and top-5 accuracy, loss, calibration error, the worst classes and the most frequent
confusions; --out=DIR writes all of it, every class and a picture of the confusions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import logging
import re
import sys

import jax
import jax.numpy as jnp
import tqdm

from vit_jax.config.run import Run
from vit_jax.data import class_names
from vit_jax.data.batch import ReadOptions
from vit_jax.data.open_source import describe_dataset, open_source
from vit_jax.data.pipeline import eval_batches
from vit_jax.data.preprocess import PRESETS, Preprocess, make_eval_preprocess
from vit_jax.data.source import Source
from vit_jax.errors import InputError, exit_on_error
from vit_jax.evaluation import per_class_report
from vit_jax.evaluation.predictions import Predictions, make_predict_step, predict_all
from vit_jax.files import make_directory
from vit_jax.inference import checkpoint_args
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.pretrained.load import Loaded

log = logging.getLogger('vit_jax')

_REAL = 'imagenet2012_real'  # arXiv 2006.07159, as TFDS has it


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  args = _parser().parse_args(argv)
  _evaluate(args)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.evaluate',
    description=__doc__.split('\n')[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="""examples:
  python -m vit_jax.tools.evaluate --checkpoint=runs/mine
  python -m vit_jax.tools.evaluate --checkpoint=FILE --dataset=cifar10 --out=results
  python -m vit_jax.tools.evaluate --checkpoint=FILE --dataset=./photos --split=val
  python -m vit_jax.tools.evaluate --checkpoint=ViT-B_16-224.npz --labels=real""",
  )
  checkpoint_args.add_arguments(parser, dtype=None, labels=False)
  add = parser.add_argument
  add(
    '--dataset',
    metavar='NAME',
    help='a TFDS name, a task of VTAB (vtab/pets) or a folder with '
    "{train,val}/<class>/<image> (default: a run's own)",
  )
  add(
    '--split',
    help="in TFDS notation, such as test[:1000] (default: a run's own on its own data "
    "set, else the data set's)",
  )
  add(
    '--labels',
    choices=['real'],
    help="real: ImageNet's validation images by their reassessed "
    f'labels (ReaL, arXiv 2006.07159); the data set is {_REAL}',
  )
  add(
    '--class_names',
    metavar='FILE',
    help="names of the model's classes, one a line (default: "
    "the data set's, else the checkpoint's; ImageNet's for its ids)",
  )
  add(
    '--data_dir',
    metavar='DIR',
    help="where data sets lie (default: a run's own, else $TFDS_DATA_DIR or ~/tensorflow_datasets)",
  )
  add(
    '--preset',
    choices=PRESETS,
    help='how images are brought to size. bit: both sides resized; '
    "inception: short side resized, centre cropped (default: a run's own, else bit)",
  )
  add(
    '--resize_size',
    type=int,
    metavar='N',
    help="pixels before the crop of inception (default: a run's own, else 8/7 of the image size)",
  )
  add(
    '--batch_size',
    type=int,
    metavar='N',
    help='images computed at once, over all devices (default: 32 a device)',
  )
  add(
    '--max_bad_records',
    type=int,
    default=0,
    metavar='N',
    help='this many damaged images are '
    'left out and counted (default: %(default)s, the first one is an error)',
  )
  add('--out', metavar='DIR', help='writes evaluation.json, per_class.csv and confusion.png there')
  add('--json', action='store_true', help='print what evaluation.json holds instead of a table')
  return parser


def _evaluate(args: argparse.Namespace) -> None:
  """Evaluates, writes and prints."""
  out = make_directory(args.out) if args.out else None
  loaded, run = checkpoint_args.load(args)
  dataset, split, data_dir = _choose_data(args, run)
  source = open_source(dataset, split, data_dir)
  _check_classes(
    loaded,
    source,
    args.checkpoint,
    dataset,
    trained_on_it=run is not None and run.config['dataset'] == dataset,
  )
  names = _names(args, loaded, source)
  loss = checkpoint_args.loss(args, run)
  preset = args.preset or (run.config['preset'] if run else 'bit')
  preprocess = make_eval_preprocess(
    preset,
    loaded.model.image_size,
    resize_size=_resize_size(args, run),
    apply_exif=source.apply_exif,
  )
  batch_size = args.batch_size if args.batch_size is not None else 32 * jax.device_count()
  predictions, skipped, bad_records = _compute(
    loaded, source, preprocess, loss, batch_size, args.max_bad_records
  )
  about = dict(
    checkpoint=args.checkpoint,
    dataset=dataset,
    split=split,
    image_size=list(loaded.model.image_size),
    preset=preset,
    dtype=str(jnp.dtype(loaded.model.dtype)),
    loss_kind=loss,
    averaged=bool(run and run.config['average']),
    skipped=skipped,
    bad_records=bad_records,
  )
  report = about | per_class_report.make_report(predictions, names, source.num_classes)
  if out:
    per_class_report.write(out, report, predictions)
  print(json.dumps(report) if args.json else per_class_report.as_table(report))


def _choose_data(args: argparse.Namespace, run: Run | None) -> tuple[str, str, str | None]:
  """(data set, split, data_dir) by what the user says, else by the run, else by the catalog."""
  dataset = args.dataset or ('imagenet2012' if args.labels else run and run.config['dataset'])
  if not dataset:
    raise InputError(
      f'{args.checkpoint} is of no training run that would tell its data set: name '
      'one with --dataset'
    )
  if args.labels:
    if re.split('[:/]', dataset)[0] not in ('imagenet2012', _REAL):
      raise InputError(
        '--labels=real is about the validation images of imagenet2012: leave it out '
        f'for --dataset={dataset}'
      )
    dataset = dataset if dataset.startswith(_REAL) else _REAL
  data_dir = args.data_dir or (run.config['data_dir'] if run else None)
  own = run.config['eval_split'] if run and run.config['dataset'] == dataset else None
  own = None if own == 'none' else own
  split = args.split or own or describe_dataset(dataset, data_dir).eval_split
  if split == 'none':
    raise InputError(f'nothing says which split of {dataset} to evaluate on: name one with --split')
  return dataset, split, data_dir


def _check_classes(
  loaded: Loaded, source: Source, checkpoint: str, dataset: str, trained_on_it: bool
) -> None:
  """Raises InputError when the model cannot know the classes; warns when it may mean others."""
  have, want = loaded.model.num_classes, source.num_classes
  if have < want:
    classes = f'has {have:,} classes' if have else 'has no head'
    raise InputError(
      f'the model of {checkpoint} {classes}, but {dataset} has {want:,} classes: '
      f'fine-tune it on {dataset} first'
    )
  ours, theirs = _places(loaded.class_names), _places(source.class_names)
  moved = min(((i, name) for name, i in theirs.items() if ours.get(name, i) != i), default=None)
  if moved:
    i, name = moved
    log.warning(
      '%r is class %d of the model, but class %d of %s: the accuracy may mean nothing',
      name,
      ours[name],
      i,
      dataset,
    )
  elif have > want and not trained_on_it:
    log.warning(
      'the model has %s classes, of which the first %s are taken to be those of %s',
      f'{have:,}',
      f'{want:,}',
      dataset,
    )


def _places(names: list[str] | None) -> dict[str, int]:
  """{name: its class, the first of several}."""
  return {name: i for i, name in reversed(list(enumerate(names or [])))}


def _resize_size(args: argparse.Namespace, run: Run | None) -> int | None:
  """Pixels before the crop; a run's are for its own image size and preset."""
  if args.resize_size is not None:
    return args.resize_size
  own = run and not args.image_size and args.preset in (None, run.config['preset'])
  return run.config['resize_size'] if own else None


def _compute(
  loaded: Loaded,
  source: Source,
  preprocess: Preprocess,
  loss: str,
  batch_size: int,
  max_bad_records: int,
) -> tuple[Predictions, int, list[str]]:
  """(predictions, number of images without a label, names of damaged records)."""
  # Softmax cross-entropy has one target; which of several labels it should be is not defined.
  step = make_predict_step(
    loaded.model, loss, with_loss=not source.multi_label or loss == 'sigmoid'
  )
  if batch_size < 1:
    raise InputError(f'--batch_size must be at least 1, got {batch_size}')
  partitioner = MeshPartitioner(batch_size)
  params = partitioner.put(loaded.params)
  with tqdm.tqdm(total=len(source), unit=' images', disable=not sys.stderr.isatty()) as bar:
    options = ReadOptions(batch_size=batch_size, max_bad_records=max_bad_records)
    with eval_batches(source, preprocess, options) as batches:
      predictions, skipped = predict_all(partitioner.gather_step(step), params, batches, bar.update)
      return predictions, skipped, sorted(batches.bad_records)


def _names(args: argparse.Namespace, loaded: Loaded, source: Source) -> list[str]:
  """Names of all classes of the model: a given file's, the data set's, the checkpoint's."""
  told = checkpoint_args.class_names(args, loaded)
  names = told if args.class_names else source.class_names or told or []
  return class_names.readable_names(names, source.num_classes, loaded.model.num_classes)


if __name__ == '__main__':
  sys.exit(main())
