"""Say in the log what a run trains, and where its results are."""

import jax
from ml_collections import ConfigDict

from vit_jax.config.length import length_warnings
from vit_jax.config.run import CHECKPOINTS, METRICS
from vit_jax.files import AnyPath
from vit_jax.training.inputs import Inputs
from vit_jax.training.log import log
from vit_jax.training.step import TrainState


def log_start(
  c: ConfigDict, inputs: Inputs, abstract: TrainState, total_steps: int, layout: str
) -> None:
  """Log the model, the data and the length of a run.

  Args:
    c: the config.
    inputs: the images.
    abstract: the shapes of the state.
    total_steps: number of steps of the run.
    layout: how the devices are used.
  """
  num_images = len(inputs.train)
  num_params = sum(x.size for x in jax.tree.leaves(abstract.params))
  device = f'{layout}: {jax.devices()[0].device_kind}'
  log.info(
    '%s, %s parameters, %d px, %s; %s', c.model, f'{num_params:,}', c.image_size, c.dtype, device
  )
  log.info(
    '%s: %s training images, %d classes; %s steps of %d images (%.4g epochs)',
    c.dataset,
    f'{num_images:,}',
    inputs.num_classes,
    f'{total_steps:,}',
    c.batch_size,
    total_steps * c.batch_size / num_images,
  )
  for warning in length_warnings(c, num_images):
    log.warning('%s', warning)


def log_results(workdir: AnyPath, checkpoint: int | None) -> None:
  """Log where the results of a finished run are.

  Args:
    workdir: directory of the run.
    checkpoint: the step of its last checkpoint. None if the checkpoints will be deleted.
  """
  if checkpoint is not None:
    log.info('Checkpoint:  %s', workdir / CHECKPOINTS / str(checkpoint))
  log.info('Metrics:     %s', workdir / METRICS)
  log.info('TensorBoard: tensorboard --logdir=%s', workdir / 'tensorboard')
