"""Find the directory of a prepared dataset, by version and config, or explain its absence."""

import os
import shutil

import pytest

from tests.helpers.shapes import NUM_TEST
from tests.helpers.storage import put
from vit_jax.data import remote
from vit_jax.data.open_source import open_source
from vit_jax.data.tfds_directory import find_directory, read_info
from vit_jax.errors import InputError


def test_the_newest_or_the_named_version_is_read(shapes, tmp_path):
  for version in ('1.2.0', '1.10.0', '1.9.0'):
    shutil.copytree(os.path.join(shapes[0], 'shapes', '1.2.0'), tmp_path / 'shapes' / version)
  (tmp_path / 'shapes' / '2.0.0').mkdir()  # from a preparation that was interrupted
  assert find_directory('shapes', str(tmp_path)).endswith('/1.10.0')
  assert find_directory('shapes:1.9.0', str(tmp_path)).endswith('/1.9.0')
  assert find_directory('shapes/1.9.0', str(tmp_path)).endswith('/1.9.0')
  assert find_directory('shapes:1.2.*', str(tmp_path)).endswith('/1.2.0')
  with pytest.raises(InputError, match=r'Prepared versions: 1\.2\.0, 1\.9\.0, 1\.10\.0\.'):
    find_directory('shapes:3.0.0', str(tmp_path))


def test_configs(shapes, tmp_path):
  for config in ('red', 'blue'):
    shutil.copytree(
      os.path.join(shapes[0], 'shapes', '1.2.0'), tmp_path / 'shapes' / config / '1.2.0'
    )
  assert find_directory('shapes/blue', str(tmp_path)).endswith('shapes/blue/1.2.0')
  assert find_directory('shapes/red:1.2.0', str(tmp_path)).endswith('shapes/red/1.2.0')
  with pytest.raises(InputError, match='Prepared datasets: shapes/blue, shapes/red.'):
    find_directory('shapes', str(tmp_path))
  (tmp_path / 'shapes' / '.config').mkdir()
  (tmp_path / 'shapes' / '.config' / 'metadata.json').write_text('{"default_config_name": "red"}')
  assert find_directory('shapes', str(tmp_path)).endswith('shapes/red/1.2.0')


def test_the_default_data_dir_is_that_of_tfds(shapes, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', shapes[1])
  assert len(open_source('shapes', 'test')) == NUM_TEST


@pytest.mark.parametrize(
  'dataset, message',
  [
    (
      'cifarr10',
      "^Unknown dataset 'cifarr10'. Did you mean cifar10 or .* For a folder .* write ./cifarr10.$",
    ),
    (
      'cifar10',
      '^The dataset cifar10 is not prepared in DIR. Prepare it with '
      '`python -m vit_jax.tools.prepare cifar10 --data_dir=DIR`.$',
    ),
    (
      'imagenet2012',
      'tools.prepare imagenet2012 .*First download files into DIR/downloads/manual: .*'
      'ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar',
    ),
    ('coco', 'tools.prepare coco '),  # TFDS's own code for it imports TensorFlow
    ('eurosat/rgbb', "^Unknown eurosat config 'rgbb'. Did you mean 'rgb'\\? Available: rgb, all.$"),
    ('jft_300m', '^JFT-300M is not public. Give the path of a folder'),
    (
      'imagenet21k',
      '^ImageNet-21k is not in TFDS. Request the images from image-net.org. Give the path of a f',
    ),
    (
      'my photos',
      "^'my photos' is neither a dataset name .* nor a folder. For a folder, write ./my photos.$",
    ),
  ],
)
def test_missing_datasets(tmp_path, dataset, message):
  with pytest.raises(InputError, match=message.replace('DIR', str(tmp_path))) as e:
    open_source(dataset, 'train', str(tmp_path))
  assert '\n' not in str(e.value)


def test_a_remote_data_dir(shapes):
  put(shapes[1], 'memory://directory')
  root = 'memory://directory/shapes'
  assert find_directory('shapes', 'memory://directory') == f'{root}/1.2.0'
  assert find_directory('shapes:1.2.0', 'memory://directory/') == f'{root}/1.2.0'
  with pytest.raises(InputError, match=f'^shapes:3.0.0 is not in {root}/. Prepared versions: 1.2'):
    find_directory('shapes:3.0.0', 'memory://directory')
  with pytest.raises(
    InputError,
    match='^The dataset cifar10 is not in memory://directory. It holds shapes. To prepare a '
    'dataset, run `python -m vit_jax.tools.prepare cifar10 --file_format=tfrecord` on a disk, and '
    'copy the directory cifar10 to memory://directory.$',
  ):
    find_directory('cifar10', 'memory://directory')
  with pytest.raises(
    InputError,
    match='^The dataset cifar10 is not in memory://nowhere. Nothing is listed there. If a web '
    'server does not list its directories, give the version, such as cifar10:1.0.0. To prepare a ',
  ):
    find_directory('cifar10', 'memory://nowhere')


def test_the_default_config_of_a_remote_dataset(shapes):
  for config in ('red', 'blue'):
    put(os.path.join(shapes[1], 'shapes'), f'memory://configs/shapes/{config}')
  with pytest.raises(InputError, match='Prepared datasets: shapes/blue, shapes/red.'):
    find_directory('shapes', 'memory://configs')
  remote.write_file(
    'memory://configs/shapes/.config/metadata.json', b'{"default_config_name": "red"}'
  )
  assert find_directory('shapes', 'memory://configs') == 'memory://configs/shapes/red/1.2.0'


def test_a_remote_description(shapes):
  put(shapes[1], 'memory://description')
  directory = 'memory://description/shapes/1.2.0'
  info = read_info(directory)
  expected = read_info(os.path.join(shapes[1], 'shapes', '1.2.0'))
  assert info.full_name == expected.full_name
  assert info.splits['train'].shard_lengths == expected.splits['train'].shard_lengths
  assert info.features['label'].names == ['disc', 'ring', 'star']
  remote.write_file(f'{directory}/features.json', b'{')
  with pytest.raises(
    InputError,
    match=f'^Cannot read the description of the dataset in {directory}: .* Prepare the dataset',
  ) as e:
    read_info(directory)
  assert '/tmp' not in str(e.value)


@pytest.mark.parametrize(
  'file, text',
  [
    ('dataset_info.json', '{"name": "shapes", '),
    ('features.json', None),
    ('features.json', '{'),
    ('dataset_info.json', '{}'),
  ],
)
def test_a_damaged_description(shapes, tmp_path, file, text):
  shutil.copytree(os.path.join(shapes[1], 'shapes'), tmp_path / 'shapes')
  path = tmp_path / 'shapes' / '1.2.0' / file
  if text is None:
    path.unlink()
  else:
    path.write_text(text)
  with pytest.raises(
    InputError,
    match='^Cannot read the description of the dataset in .*1.2.0: .* Prepare the dataset again.$',
  ):
    open_source('shapes', 'train', str(tmp_path))
