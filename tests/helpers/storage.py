"""Put files into remote storage."""

import pathlib

from vit_jax.data import remote


def put(directory, address):
  """Copy what is in a local directory to an address."""
  for path in sorted(pathlib.Path(directory).rglob('*')):
    if path.is_file():
      remote.write_file(f'{address}/{path.relative_to(directory)}', path.read_bytes())
