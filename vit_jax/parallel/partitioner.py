"""What the ways to split a step over devices have in common."""

import jax

from vit_jax.errors import InputError


class Partitioner:
  """What the ways to spread a step have in common: a batch cut over all devices."""

  def __init__(self, num_devices: int, batch_size: int, accumulate: int):
    self.num_devices = num_devices
    self.layout = f'{num_devices} device(s)'
    # Simulated CPU devices share a thread pool, which steps queued behind a collective exhaust.
    self.max_in_flight = 0 if jax.default_backend() == 'cpu' else 1
    if batch_size % (num_devices * accumulate):
      ways = f'{num_devices} devices' + (
        f' x {accumulate} accumulation passes' if accumulate > 1 else ''
      )
      unit = num_devices * accumulate
      raise InputError(
        f'batch_size {batch_size} does not divide over {ways}; try '
        f'{max(1, round(batch_size / unit)) * unit}'
      )
