"""Build the page of a run: collect its results, then write a section about each."""

from __future__ import annotations

from collections.abc import Callable
import logging
from typing import TypeVar

from vit_jax.config.old_spellings import upgrade
from vit_jax.config.run import METRICS, Damaged, read_config, read_curves
from vit_jax.errors import InputError
from vit_jax.files import local_path
from vit_jax.report import page, sections
from vit_jax.report.newest_model import NewestModel, load_newest_model
from vit_jax.report.summary import find_checkpoints

T = TypeVar('T')
log = logging.getLogger('vit_jax')


def make_report(workdir: str, *, num_images: int = 256, batch_size: int = 16) -> str:
  """Return the report of a run as an HTML page that needs no other file and no network.

  Where something is missing, such as a checkpoint, the page says so in its place.

  Args:
    workdir: directory of the run. The run may still be training.
    num_images: number of images of the evaluation split to predict and to look at.
    batch_size: number of images to compute at once.

  Raises:
    InputError: the directory is not the workdir of a run.
  """
  directory = local_path(workdir)
  checkpoints = find_checkpoints(directory)
  config = _attempt(lambda: upgrade(read_config(directory)))
  if isinstance(config, InputError):
    if not isinstance(config, Damaged) or not (checkpoints or (directory / METRICS).exists()):
      raise config
    log.warning('%s The report goes on without it.', config)

  def load_model() -> NewestModel:
    if not checkpoints:
      raise InputError(sections.NO_CHECKPOINT)
    return load_newest_model(directory, num_images=num_images, batch_size=batch_size)

  curves = _attempt(lambda: read_curves(directory))
  model = _attempt(load_model)
  parts = [
    (
      'curves',
      'Learning curves',
      lambda: sections.learning_curves(directory.name, _require(curves)),
    ),
    ('metrics', 'Final metrics', lambda: sections.final_metrics(_require(curves))),
    ('examples', 'Example predictions', lambda: sections.example_predictions(_require(model))),
    (
      'figures',
      'What the model learned',
      lambda: sections.model_figures(_require(model), batch_size),
    ),
    ('throughput', 'Throughput', lambda: sections.throughput(_require(curves))),
    ('config', 'Config', lambda: sections.config_table(_require(config))),
    ('checkpoints', 'Checkpoints', lambda: sections.checkpoint_table(checkpoints)),
  ]
  fields = {} if isinstance(config, InputError) else config
  body = [sections.head(directory, fields, curves, checkpoints)]
  for name, title, make in parts:
    content = _attempt(make)
    if isinstance(content, InputError):
      content = page.missing(content)
    body.append(page.section(name, title, content))
  return page.page(f'{directory.name}: {sections.describe(fields)}', '\n'.join(body))


def _attempt(make: Callable[[], T]) -> T | InputError:
  """Return the result of a function, or the InputError that it raises."""
  try:
    return make()
  except InputError as e:
    return e


def _require(value: T | InputError) -> T:
  """Return a value of `_attempt`; raise it if it is an error."""
  if isinstance(value, InputError):
    raise value
  return value
