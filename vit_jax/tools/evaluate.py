"""Evaluate a checkpoint on a dataset, counting every image of a split exactly once.

  python -m vit_jax.tools.evaluate --checkpoint=ViT-B_16-224.npz --dataset=imagenet2012

This prints top-1 and top-5 accuracy, loss, calibration error, the worst classes and the most
frequent confusions. --out=DIR also writes all of these, every class, every image, and a picture of
the confusions.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from vit_jax.data.batch import ReadOptions
from vit_jax.data.class_names import readable_names
from vit_jax.data.open_source import open_source
from vit_jax.data.preprocess import make_eval_preprocess
from vit_jax.data.source import Source
from vit_jax.errors import InputError, exit_on_error
from vit_jax.evaluation import image_table, per_class_report
from vit_jax.evaluation.class_check import match_classes
from vit_jax.evaluation.eval_split import find_eval_split, is_dataset_of
from vit_jax.evaluation.predictions import predict_source
from vit_jax.files import make_directory
from vit_jax.inference import checkpoint_args
from vit_jax.parallel.allocator import keep_freed_memory
from vit_jax.pretrained.load import Loaded

_REAL = 'imagenet2012_real'  # the name of ReaL (arXiv 2006.07159) in TFDS


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  args = _parser().parse_args(argv)
  keep_freed_memory()
  _evaluate(args)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.evaluate',
    description=(__doc__ or '').split('\n')[0],
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
    help='a TFDS dataset, a VTAB task (vtab/pets), a folder with {train,val}/<class>/<image>, '
    'DIR/labels.csv, wds:PATTERN or hf:NAME as for --config.dataset (default: that of the run)',
  )
  add(
    '--split',
    help='split in TFDS notation, such as test[:1000] (default: that of the run, if it was trained '
    'on this dataset, or else the evaluation split of the dataset)',
  )
  add(
    '--labels',
    choices=['real'],
    help="real: evaluate on ImageNet's validation images with their reassessed labels (ReaL, arXiv "
    f'2006.07159), dataset {_REAL}',
  )
  add(
    '--class_names',
    metavar='FILE',
    help='file with the names of the classes of the model, one per line (default: those of the '
    "dataset, or else of the checkpoint; ImageNet's ids become names)",
  )
  add(
    '--data_dir',
    metavar='DIR',
    help='directory of the TFDS datasets (default: that of the run, or else $TFDS_DATA_DIR or '
    '~/tensorflow_datasets)',
  )
  checkpoint_args.add_preprocess_arguments(parser)
  checkpoint_args.add_batch_arguments(parser)
  add(
    '--match_classes',
    choices=['name', 'position'],
    default='name',
    help='match the classes of the model and the dataset by their names, where both are known, or '
    'by their position (default: %(default)s)',
  )
  add(
    '--out',
    metavar='DIR',
    help='directory for evaluation.json, per_class.csv, predictions.csv and confusion.png',
  )
  add(
    '--predictions',
    metavar='FILE',
    help='a .csv or .parquet file that gets the path, label, prediction and probability of every '
    'image',
  )
  add('--json', action='store_true', help='print the content of evaluation.json, not a table')
  return parser


def _evaluate(args: argparse.Namespace) -> None:
  """Evaluate the checkpoint, then write and print the report."""
  directory = make_directory(args.out) if args.out else None
  tables = [image_table.check_format(args.predictions)] if args.predictions else []
  batch_size = checkpoint_args.batch_size(args)
  loaded, run = checkpoint_args.load(args)
  config = run.config if run else {}
  dataset = _choose_dataset(args, config)
  data_dir = args.data_dir or config.get('data_dir')
  split = args.split or find_eval_split(dataset, config, data_dir)
  source = open_source(dataset, split, data_dir)
  given_names = checkpoint_args.class_names(args, loaded) if args.class_names else None
  order = match_classes(
    loaded,
    source,
    checkpoint=args.checkpoint,
    dataset=dataset,
    trained_on_it=is_dataset_of(config, dataset),
    remedy='Rename the classes of one of them, or pass --match_classes=position if class k of the '
    f'model is class k of {dataset}.',
    given_names=given_names,
    by_position=args.match_classes == 'position',
  )
  names = _class_names(given_names, loaded, source, order)
  usage = checkpoint_args.usage(args, loaded)
  preprocess = make_eval_preprocess(
    usage.preset,
    loaded.model.image_size,
    resize_size=usage.resize_size,
    eval_filter=usage.eval_filter,
    apply_exif=source.apply_exif,
    fast_dct=usage.fast_dct,
  )
  devices = jax.device_count()
  batch_size = min(batch_size, -(-max(len(source), 1) // devices) * devices)  # not only padding
  options = ReadOptions(batch_size, max_bad_records=args.max_bad_records)
  with tqdm.tqdm(total=len(source), unit=' images', disable=not sys.stderr.isatty()) as bar:
    predicted = predict_source(
      loaded, source, preprocess, usage.loss, options, bar.update, order=order
    )
  report = {
    'checkpoint': args.checkpoint,
    'dataset': dataset,
    'split': split,
    'image_size': list(loaded.model.image_size),
    'preset': usage.preset,
    'filter': usage.eval_filter,
    'fast_dct': usage.fast_dct,
    'dtype': str(jnp.dtype(loaded.model.dtype)),
    'loss_kind': usage.loss,
    'averaged': bool(config.get('average')),
    'skipped': predicted.skipped,
    'bad_records': predicted.bad_records,
    **per_class_report.make_report(predicted.predictions, names, source.num_classes),
  }
  print(json.dumps(report) if args.json else per_class_report.as_table(report), flush=True)
  if directory:
    per_class_report.write(directory, report, predicted.predictions)
    tables.append(directory / 'predictions.csv')
  if tables:
    rows = image_table.image_rows(predicted.predictions, source, names)
    for path in tables:
      image_table.write_images(path, rows)


def _choose_dataset(args: argparse.Namespace, config: Mapping[str, Any]) -> str:
  """Return the dataset of the arguments, or else of the run."""
  dataset = args.dataset or ('imagenet2012' if args.labels else config.get('dataset'))
  if not dataset:
    raise InputError(
      f'No training run wrote {args.checkpoint}, so its dataset is unknown. Choose one with '
      '--dataset.'
    )
  if not args.labels:
    return dataset
  if re.split('[:/]', dataset)[0] not in ('imagenet2012', _REAL):
    raise InputError(
      '--labels=real is only for the validation images of imagenet2012. Leave it out for '
      f'--dataset={dataset}.'
    )
  return dataset if dataset.startswith(_REAL) else _REAL


def _class_names(
  given: list[str] | None, loaded: Loaded, source: Source, order: np.ndarray | None
) -> list[str]:
  """Return the names of all classes of the model, those of the dataset first.

  Names are those that are given, or else those of the dataset and, for the other classes, of the
  checkpoint.
  """
  num_classes = loaded.model.num_classes
  own = readable_names(loaded.class_names or [], num_classes, num_classes)
  if given:
    own = given
  if order is not None:
    own = [own[i] for i in order]
  if given or not source.class_names and loaded.class_names:
    return own
  names = readable_names(source.class_names or [], source.num_classes, source.num_classes)
  return names + own[len(names) :]


if __name__ == '__main__':
  sys.exit(main())
