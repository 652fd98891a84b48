"""Run servers that keep files: a slow web server, and emulators of the storage of two clouds."""

import contextlib
import os
import subprocess
import sys
from unittest import mock

import pytest

from tests.helpers.paths import ROOT
from vit_jax.data import remote


def require(*modules, install):
  """Skip the test if a module is missing."""
  for module in modules:
    pytest.importorskip(module, reason=f'{module} is missing: pip install {install}')


@contextlib.contextmanager
def _running(*command):
  """Run a Python module that prints its port. Yield the address."""
  process = subprocess.Popen(
    [sys.executable, '-m', *map(str, command)], stdout=subprocess.PIPE, cwd=ROOT, text=True
  )
  try:
    yield f'http://127.0.0.1:{int(process.stdout.readline())}'
  finally:
    process.kill()
    process.wait()


@contextlib.contextmanager
def slow_server(directory, **options):
  """Serve a directory (see benchmarks/slow_server.py). Yield the address."""
  require('aiohttp', install='aiohttp')
  flags = [f'--{name}={value}' for name, value in options.items()]
  with _running('benchmarks.slow_server', directory, *flags) as address:
    yield address


@contextlib.contextmanager
def gcs_server():
  """Run a server of Google Cloud Storage with gs://bucket. Yield its address."""
  require('gcsfs', 'gcp_storage_emulator', install='gcsfs gcp-storage-emulator')
  with (
    _running('tests.helpers.gcs_server') as address,
    _environment(STORAGE_EMULATOR_HOST=address, TENSORSTORE_GCS_HTTP_URL=address),
  ):
    yield address


@contextlib.contextmanager
def s3_server():
  """Run a server of Amazon's S3 with s3://bucket. Yield its address."""
  require('s3fs', 'moto', 'flask', 'flask_cors', install="s3fs 'moto[s3]' flask flask-cors")
  with (
    _running('tests.helpers.s3_server') as address,
    _environment(
      AWS_ENDPOINT_URL=address,
      AWS_ACCESS_KEY_ID='test',
      AWS_SECRET_ACCESS_KEY='test',
      AWS_DEFAULT_REGION='us-east-1',
    ),
  ):
    yield address


@contextlib.contextmanager
def _environment(**variables):
  """Set environment variables, and connect again, because libraries read them when they connect."""
  with mock.patch.dict(os.environ, variables):
    remote.connect.cache_clear()
    yield
  remote.connect.cache_clear()
