"""The length of a run and of its warmup, in steps."""

from collections.abc import Container
import logging

from ml_collections import ConfigDict

from vit_jax.config.fields import Config, default_config

log = logging.getLogger('vit_jax')

# The length of a run whose config leaves it open, such as fine-tuning on a folder of images.
_OPEN_EPOCHS = 100
_OPEN_STEPS = (50, 2500)  # the least and the most; 2,500 is the length of the tasks of VTAB
# The warmup that a config leaves open, as in table 4 of the paper: 100 of 500 steps, 500 of 2,500.
_OPEN_WARMUP_SHARE = 5
_OPEN_WARMUP_STEPS = 500
_MANY_EPOCHS = 1300  # the paper's longest fine-tuning, 2,500 steps of 512 images on 1,000: 1,280


def count_steps(c: Config, num_images: int) -> int:
  """Return the length of a run in steps.

  Args:
    c: the fields of a config.
    num_images: number of training images.
  """
  if c['total_steps']:
    return c['total_steps']
  if c['num_epochs'] is not None:
    return max(1, _steps(c['num_epochs'], num_images, c['batch_size']))
  least, most = _OPEN_STEPS
  return min(most, max(least, _steps(_OPEN_EPOCHS, num_images, c['batch_size'])))


def count_warmup_steps(c: Config, total_steps: int) -> int:
  """Return the length of the warmup of a run of `total_steps` steps."""
  if c['warmup_steps'] is None:
    return min(_OPEN_WARMUP_STEPS, total_steps // _OPEN_WARMUP_SHARE)
  return c['warmup_steps']


def _steps(epochs: float, num_images: int, batch_size: int) -> int:
  return round(epochs * num_images / batch_size)


def settle_length(config: ConfigDict, given: Container[str]) -> None:
  """Let a length on the command line replace that of the config file, in place.

  Args:
    config: the config, with the fields of the command line.
    given: fields that the command line sets. If these are both lengths, nothing changes, and
      `no_effect.check_effect` says so.
  """
  both = both_lengths(config)
  if both is None or 'total_steps' in given:
    return
  if 'num_epochs' in given:
    config.total_steps = None
  elif config.num_epochs != default_config().num_epochs:
    log.warning('The config file sets %s. The number of epochs is not used.', both)


def both_lengths(config: ConfigDict) -> str | None:
  """Return both lengths in words, or None if only one of them is set."""
  if not config.total_steps or config.num_epochs is None:
    return None
  return f'config.num_epochs={config.num_epochs:g} and config.total_steps={config.total_steps}'


def length_warnings(c: Config, num_images: int) -> list[str]:
  """Return a sentence for each field that does not fit the length of the run or the data.

  Args:
    c: the fields of a config.
    num_images: number of training images.
  """
  steps, batch_size = count_steps(c, num_images), c['batch_size']
  warmup, epochs = count_warmup_steps(c, steps), steps * batch_size / num_images
  warnings = []
  if batch_size > num_images:
    warnings.append(
      f'config.batch_size={batch_size} is larger than the {num_images:,} training images, so a '
      f'batch contains images more than once. Set --config.batch_size={_power_of_2(num_images)}.'
    )
  if warmup >= steps:
    warnings.append(
      f'config.warmup_steps={warmup} is not less than the {steps:,} steps of the run, so the '
      f'learning rate reaches only {(steps - 1) / warmup:.1%} of config.lr={c["lr"]:g}. Set '
      f'--config.warmup_steps={steps // _OPEN_WARMUP_SHARE}, or train longer.'
    )
  late = [drop for drop in c['lr_drops'] if drop >= steps]
  if c['schedule'] == 'steps' and late:
    warnings.append(
      f'The learning rate never drops at the steps {", ".join(map(str, late))} of config.lr_drops, '
      f'because the run has {steps:,} steps. Set --config.lr_drops.'
    )
  if c['profile_steps'] is not None and c['profile_steps'][0] > steps:
    warnings.append(
      f'config.profile_steps={tuple(c["profile_steps"])} traces nothing, because the run has '
      f'{steps:,} steps.'
    )
  if epochs > _MANY_EPOCHS:
    warnings.append(
      f'{steps:,} steps of {batch_size} images are {epochs:,.0f} epochs of the {num_images:,} '
      f'training images. For a shorter run, set --config.num_epochs={_OPEN_EPOCHS}.'
    )
  return warnings


def _power_of_2(at_most: int) -> int:
  """Return the largest power of 2 that is at most half of a number, but at least 1."""
  return 1 << max(0, (at_most // 2).bit_length() - 1)
