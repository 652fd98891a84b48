"""Read datasets of the package `datasets`: saved to disk, as parquet and as a folder of images."""

import concurrent.futures
import pickle
import shutil

import numpy as np
import pytest

from tests.helpers.shapes import png, read_all, run_python
from vit_jax.data.dataset_names import absolute_path
from vit_jax.data.open_source import describe_dataset, open_source, split_names
from vit_jax.errors import InputError

NAMES = ['disc', 'ring', 'stär']


@pytest.fixture(scope='module')
def hf(tmp_path_factory):
  """Return the package `datasets`, which works offline and keeps its cache in a new directory."""
  cache = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('HF_HOME', str(cache))
    patch.setenv('HF_HUB_OFFLINE', '1')
    datasets = pytest.importorskip('datasets', reason="the extra 'hf' is not installed")
    patch.setattr(datasets.config, 'HF_DATASETS_CACHE', str(cache))
    datasets.disable_progress_bars()
    yield datasets


def make(hf, numbers, labels=None, feature=None, **columns):
  """Return a dataset of the images png(i), whose label is i % 3."""
  labels = [i % 3 for i in numbers] if labels is None else labels
  return hf.Dataset.from_dict(
    {
      'note': [f'{i}' for i in numbers],
      'label': labels,
      'image': [{'bytes': png(i), 'path': f'{i}.png'} for i in numbers],
    },
    features=hf.Features(
      note=hf.Value('string'), label=feature or hf.ClassLabel(names=NAMES), image=hf.Image()
    ),
  )


@pytest.fixture(scope='module')
def paths(hf, tmp_path_factory):
  """Return {kind: path} of the same dataset, stored in several ways."""
  folder = tmp_path_factory.mktemp('hf')
  splits = hf.DatasetDict(train=make(hf, range(40)), validation=make(hf, range(1000, 1010)))
  splits.save_to_disk(folder / 'saved', num_shards={'train': 3, 'validation': 1})
  for name, split in splits.items():
    for shard in range(2):
      (folder / 'parquet, it is' / 'data').mkdir(parents=True, exist_ok=True)
      split.shard(2, shard, contiguous=True).to_parquet(
        folder / 'parquet, it is' / 'data' / f'{name}-{shard:05}-of-00002.parquet'
      )
  splits['train'].to_parquet(folder / 'one.parquet')
  return {path.name.split('.')[0].split(',')[0]: str(path) for path in folder.iterdir()}


def test_an_empty_name():
  with pytest.raises(InputError) as e:
    open_source('hf:', 'train')
  assert str(e.value) == 'hf: needs a name or a path behind it, such as hf:timm/mini-imagenet.'


def test_an_address_is_not_a_name():
  with pytest.raises(InputError) as e:
    open_source('hf://datasets/timm/imagenet-1k-wds', 'train')
  assert str(e.value) == (
    'hf://datasets/timm/imagenet-1k-wds is an address. Write hf:timm/imagenet-1k-wds for a dataset '
    'of the package datasets, or wds:hf://datasets/timm/imagenet-1k-wds for tars in the WebDataset '
    'format.'
  )


def examples(numbers):
  return [{'image': png(i), 'label': i % 3} for i in numbers]


@pytest.mark.parametrize('kind', ['saved', 'parquet'])
def test_splits(paths, kind):
  name = f'hf:{paths[kind]}'
  opened = open_source(name, 'train')
  assert read_all(opened) == examples(range(40))
  assert opened.class_names == NAMES and opened.num_classes == 3 and not opened.multi_label
  assert opened.apply_exif and opened.label(4) == 1
  assert opened.location(12) == f'{name}/train/12 (12.png)'
  assert read_all(open_source(name, 'validation')) == examples(range(1000, 1010))
  assert split_names(name) == ['train', 'validation']
  assert describe_dataset(name).eval_split == 'validation'
  assert len(open_source(name, 'all')) == 50
  parts = [open_source(name, f'train[{part}]') for part in (':10', '10:30', '30:')]
  places = [part.location(i) for part in parts for i in range(len(part))]
  assert sorted(places) == sorted(opened.location(i) for i in range(40))
  assert places[:10] != [opened.location(i) for i in range(10)]  # a sample


def test_a_parquet_file_and_a_single_dataset(hf, paths, tmp_path):
  assert read_all(open_source(f'hf:{paths["one"]}', 'train')) == examples(range(40))
  make(hf, range(5)).save_to_disk(tmp_path / 'one')
  assert read_all(open_source(f'hf:{tmp_path}/one', 'train')) == examples(range(5))


def test_threads_and_pickling(paths):
  """Worker processes map the files again. The images are not copied to them."""
  opened = open_source(f'hf:{paths["saved"]}', 'train')
  expected = read_all(opened)
  pickled = pickle.dumps(opened)
  assert png(5) not in pickled
  opened = pickle.loads(pickled)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(opened.__getitem__, list(range(40)) * 5)) == expected * 5
  for index in (40, -1):
    for read in (opened.__getitem__, opened.label, opened.location):
      with pytest.raises(IndexError):
        read(index)


def test_several_labels_per_image(hf, tmp_path):
  labels = [[0, 2], [1], [], [2]]
  make(hf, range(4), labels, hf.Sequence(hf.ClassLabel(names=NAMES))).save_to_disk(tmp_path)
  opened = open_source(f'hf:{tmp_path}', 'train')
  assert opened.multi_label and opened.class_names == NAMES
  expected = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1]], np.uint8)
  np.testing.assert_array_equal([opened[i]['label'] for i in range(4)], expected)
  assert opened.label(0).dtype == np.uint8


def test_numbers_as_labels_and_plain_bytes(tmp_path, hf):
  """A parquet file that another program has written."""
  pa = pytest.importorskip('pyarrow')
  parquet = pytest.importorskip('pyarrow.parquet')
  table = pa.table({'image': [png(i) for i in range(4)], 'label': [3, 0, 1, 0]})
  parquet.write_table(table, tmp_path / 'a.parquet')
  opened = open_source(f'hf:{tmp_path}/a.parquet', 'train')
  assert opened.num_classes == 4 and opened.class_names is None
  assert read_all(opened)[0] == {'image': png(0), 'label': 3}
  assert opened.location(1) == f'hf:{tmp_path}/a.parquet/train/1'


def test_a_folder_of_images_as_the_package_reads_it(hf, tmp_path):
  for path in ('train/ant/1.png', 'train/bee/2.png', 'test/bee/3.png'):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(png(int(path[-5])))
  opened = open_source(f'hf:{tmp_path}', 'train')
  assert opened.class_names == ['ant', 'bee'] and split_names(f'hf:{tmp_path}') == ['train', 'test']
  assert {x['image']: x['label'] for x in read_all(opened)} == {png(1): 0, png(2): 1}
  (tmp_path / 'train/ant/1.png').unlink()
  (bad,) = (i for i in range(2) if opened.label(i) == 0)
  with pytest.raises(ValueError, match='^the file .*1.png cannot be read .No such file or direct'):
    opened[bad]


def test_rows_without_an_image_or_a_label(hf, tmp_path):
  data = make(hf, range(4), [0, None, -1, 1]).to_dict()
  data['image'][0] = None
  hf.Dataset.from_dict(data, features=make(hf, [0]).features).save_to_disk(tmp_path / 'a')
  opened = open_source(f'hf:{tmp_path}/a', 'train')
  for index, message in [(0, 'the row has a label, but no image'), (1, 'the row has no label')]:
    with pytest.raises(ValueError) as e:
      opened[index]
    assert str(e.value) == message and not isinstance(e.value, InputError)
  with pytest.raises(InputError) as e:
    opened[2]
  assert str(e.value) == (
    f'hf:{tmp_path}/a/train/2 (2.png) has the label -1, which is not in [0, 3). If this split has '
    'no labels, choose another.'
  )
  assert opened.location(0) == f'hf:{tmp_path}/a/train/0' and opened.label(0) == 0
  make(hf, range(2), [-1, -1]).save_to_disk(tmp_path / 'b')
  with pytest.raises(InputError) as e:
    open_source(f'hf:{tmp_path}/b', 'train')
  assert str(e.value) == (
    f'The split train of hf:{tmp_path}/b has no labels. Choose another split.'
  )


def test_what_cannot_be_loaded(hf, tmp_path, paths):
  with pytest.raises(InputError) as e:
    open_source('hf:./nowhere', 'train')
  assert str(e.value) == f'There is no dataset at {absolute_path("./nowhere")}. Check the path.'
  with pytest.raises(
    InputError, match='^Cannot load hf:nobody/nothing: .* Check the name. For a da'
  ):
    open_source('hf:nobody/nothing', 'train')
  with pytest.raises(InputError, match="^Unknown split 'test'. Available: train, validation.$"):
    open_source(f'hf:{paths["saved"]}', 'test')
  hf.Dataset.from_dict({'text': ['a']}).save_to_disk(tmp_path / 'text')
  with pytest.raises(InputError) as e:
    open_source(f'hf:{tmp_path}/text', 'train')
  assert str(e.value) == (
    f'hf:{tmp_path}/text is not an image classification dataset. It needs an Image and a '
    'ClassLabel (or a sequence of ClassLabel), but its columns are text: Value. Choose another '
    'dataset.'
  )
  shutil.copytree(paths['saved'], tmp_path / 'damaged')
  for file in (tmp_path / 'damaged').rglob('*.arrow'):
    file.write_bytes(file.read_bytes()[:100])
  with pytest.raises(InputError, match='^Cannot load hf:.*damaged: .* Check the name'):
    open_source(f'hf:{tmp_path}/damaged', 'train')


def test_without_the_package():
  code = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == 'datasets' else find_spec(name)
from vit_jax.data.open_source import open_source
open_source('hf:cifar10', 'train')
"""
  result = run_python(code)
  assert result.stderr.splitlines()[-1] == (
    'vit_jax.errors.InputError: hf:cifar10 needs the package datasets. Run: '
    "pip install 'vit_jax[hf]'"
  )
