"""Set up JAX for the tests, and define fixtures that several of them share.

Tests run on 8 simulated CPU devices. JAX reads its environment variables when it starts, so they
are set here. Compiled programs are kept, because the tests of restarts run the same one often.
"""

import os
import pathlib
import signal

import pytest

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'jax')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

pytest.register_assert_rewrite('tests.helpers.images')  # shows the values of its assertions

# Fixtures of several tests.
from tests.helpers.jobs import images, start  # noqa: E402, F401
from tests.helpers.logs import messages, reset_log  # noqa: E402, F401


def pytest_configure(config):
  if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell script does this for 'pytest &'
    signal.signal(signal.SIGINT, signal.default_int_handler)
  config.addinivalue_line('markers', 'slow: takes more than about 20 seconds')


@pytest.fixture(params=['whole', 'partial'])
def decoder(request, monkeypatch):
  """Run a test without and with the optional C extension."""
  from vit_jax.data import decode

  if request.param == 'whole':
    monkeypatch.setattr(decode, '_jpegcrop', None)
  elif decode._jpegcrop is None:
    pytest.skip('the optional C extension is not built')


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
  """Return two data_dirs with the same dataset, in the order (array_record, tfrecord)."""
  from tests.helpers.shapes import to_tfrecord, write_shapes

  root = tmp_path_factory.mktemp('shapes')
  directory = write_shapes(root / 'a')
  to_tfrecord(directory, root / 't' / 'shapes' / '1.2.0')
  return str(root / 'a'), str(root / 't')


@pytest.fixture(scope='module')
def digits_dir(tmp_path_factory):
  from vit_jax.data.open_source import open_source

  data_dir = tmp_path_factory.mktemp('digits')
  open_source('digits', 'train', str(data_dir))
  return str(data_dir)


@pytest.fixture(scope='session')
def vtab_dir(tmp_path_factory):
  """Return a data_dir with every dataset of VTAB. Tests must not change it."""
  from tests.helpers.vtab_files import DATASETS, write_dataset

  root = tmp_path_factory.mktemp('vtab')
  for dataset in DATASETS:
    write_dataset(root, dataset)
  return root


@pytest.fixture
def photos(tmp_path):
  for path in [
    'train/cat/b.JPG',
    'train/cat/a.png',
    'train/dog/x.webp',
    'train/dog/y.jpeg',
    'train/ant/1.png',
    'train/ant/2.bmp',
    'val/dog/z.png',
    'train/cat/.hidden.png',
    'train/cat/notes.txt',
    'train/.cache/no.png',
    'train/readme.md',
  ]:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(path.encode())
  return tmp_path
