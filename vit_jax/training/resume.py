"""Check that a run is resumed with the data and the model that it was started with.

What may change, such as the learning rate or the path of the dataset, is only noted in the log (see
`workdir.write_config`).
"""

from collections.abc import Iterator, Mapping, Sequence
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from vit_jax.config.fields import MODEL_FIELDS, Config
from vit_jax.config.run import Damaged, complete, read_config
from vit_jax.data.image_files import count
from vit_jax.data.source import Source
from vit_jax.data.subset import evenly
from vit_jax.errors import InputError, shortlist
from vit_jax.files import AnyPath
from vit_jax.training.log import log

# Fields that decide which arrays a checkpoint has besides the parameters of the model.
_STATE_FIELDS = ('optimizer', 'trained_blocks', 'average', 'pretext', 'mpp_target')
# Model fields that may differ between the steps of a run, and those that the shapes of the arrays
# show. `Checkpoints` compares the shapes.
_FREE_MODEL_FIELDS = (
  'dropout',
  'stochastic_depth',
  'head_bias_init',
  'attention_implementation',
  'scan',
  'remat',
  'dtype',
)
_SHAPES = ('num_layers', 'hidden_dim', 'mlp_dim', 'num_heads', 'resnet_stages', 'layer_scale')
_START_FIELDS = ('init_from', 'new_head', 'head_bias_init')  # they only matter for the first step
_SAMPLE = 1000  # training images whose names and labels are compared
_INSIST = 'To resume anyway, pass --resume_anyway.'
# Fields that a checkpoint records, because they cannot be inferred from its arrays.
_RECORDED = (
  'model',
  'activation',
  'norm_eps',
  'head',
  'pos_embedding',
  'pos_embedding_at',
  'dataset',
  'preset',
  'resize_size',
  'eval_filter',
  'fast_dct',
  'loss',
)


def describe_config(c: Config) -> dict[str, Any]:
  """Return what a checkpoint records of its config."""
  return {**{field: c[field] for field in _RECORDED}, 'image_size': [c['image_size']] * 2}


def check_fields(config: Config, workdir: AnyPath, *, resume_anyway: bool = False) -> None:
  """Check that the config has the model and the kind of state that the run has recorded.

  Args:
    config: the config to resume with.
    workdir: the directory of the run.
    resume_anyway: allow another model.

  Raises:
    InputError: a field differs. The message names it.
  """
  try:
    recorded = read_config(workdir)
    before = complete(recorded)
  except (Damaged, TypeError):
    return  # workdir.write_config warns of it
  for field in _START_FIELDS:
    if field in recorded and config[field] != before[field]:
      log.info('config.%s has no effect: the run goes on from its checkpoint.', field)
  for field in (*_STATE_FIELDS, *MODEL_FIELDS, 'image_size'):
    now, then = config[field], before[field]
    if field not in recorded or field in (*_FREE_MODEL_FIELDS, *_SHAPES) or _same(field, now, then):
      continue
    is_state = field in _STATE_FIELDS
    if is_state or not resume_anyway:
      flag = f'--config.{field}'
      remedy = f'Leave out {flag}' if then is None else f'Set {flag}={then}'
      raise InputError(
        f'config.{field} is {now!r}, but the run in {workdir} was started with {then!r}. '
        f'{remedy}, or choose another --workdir.' + ('' if is_state else f' {_INSIST}')
      )


def _same(field: str, now: Any, then: Any) -> bool:
  return bool(now) == bool(then) if field == 'average' else now == then


def describe_data(source: Source) -> dict[str, Any]:
  """Return what a checkpoint records of the training images: classes, number, order and labels."""
  sample = evenly(source, _SAMPLE)
  digest = hashlib.blake2b(digest_size=16)
  for i in range(len(sample)):
    # The class and the file, or the shard and the record: what stays when a disk is mounted
    # elsewhere.
    digest.update(os.fsencode('/'.join(pathlib.PurePath(sample.location(i)).parts[-2:])) + b'\n')
  return {
    'class_names': source.class_names,
    'num_images': len(source),
    'images_digest': digest.hexdigest(),
    'labels_digest': _digest_labels(sample) if source.has_labels_apart else None,
    'newly_listed': source.newly_listed,  # for the checkpoints of earlier versions
  }


def _digest_labels(source: Source) -> str:
  """Return a digest of the labels of all examples. One that has none counts, too."""
  digest = hashlib.blake2b(digest_size=16)
  for i in range(len(source)):
    try:
      label = source.label(i)
      text = ' '.join(map(str, np.flatnonzero(label))) if np.ndim(label) else str(label)
    except ValueError:  # there is no label, or none that training accepts
      text = '-'
    digest.update(f'{text}\n'.encode())
  return digest.hexdigest()


def check_data(
  recorded: Mapping[str, Any], now: Mapping[str, Any], dataset: str, workdir: AnyPath
) -> None:
  """Check that the training images are those that the run has recorded.

  Args:
    recorded: metadata of a checkpoint. Those of earlier versions have only the class names.
    now: result of `describe_data`.
    dataset: name of the dataset, for messages.
    workdir: the directory of the run, for messages.

  Raises:
    InputError: classes, number, order or labels of the images differ.
  """
  change = next(_changes(recorded, now), None)
  if change is not None:
    raise InputError(
      f'The training images of {dataset} are not those that the run in {workdir} was started with: '
      f'{change}. Undo that, or choose another --workdir. {_INSIST}'
    )


def _changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
  """Yield how the training images differ, the most important difference first."""
  before, names = recorded.get('class_names'), now['class_names']
  if before and names and list(before) != list(names):
    yield _renamed(before, names)
  images = recorded.get('num_images')
  if images is None and (new := now.get('newly_listed')):
    yield (
      f'this version of vit_jax also takes {count(new, "image")} that the earlier one left out, in '
      'subfolders of the classes or with other extensions than .jpg, .jpeg, .png and .webp'
    )
  if images not in (None, now['num_images']):
    yield f'there are {now["num_images"]:,} images instead of {images:,}'
  if recorded.get('images_digest') not in (None, now['images_digest']):
    yield 'their names or their order have changed'
  labels, labels_now = recorded.get('labels_digest'), now.get('labels_digest')
  if None not in (labels, labels_now) and labels != labels_now:
    yield 'their labels have changed'


def _renamed(before: Sequence[str], names: Sequence[str]) -> str:
  old_names, new_names = set(before), set(names)
  gone = [repr(name) for name in before if name not in new_names]
  new = [repr(name) for name in names if name not in old_names]
  if not gone and not new:
    i = next(i for i, pair in enumerate(zip(before, names)) if pair[0] != pair[1])
    return (
      f'the classes are in another order, and class {i} is {names[i]!r} instead of {before[i]!r}'
    )
  parts = [f'class {shortlist(gone, 3)} is missing'] * bool(gone)
  parts += [f'class {shortlist(new, 3)} is new'] * bool(new)
  return ', and '.join(parts)
