"""Write the same small dataset in every format that has a reader."""

import csv
from typing import NamedTuple

import pytest

from tests.helpers.shapes import to_tfrecord
from tests.helpers.tars import write_tar


class Row(NamedTuple):
  """An example: the name of its file without extension, the image, and its label or labels."""

  key: str
  image: bytes | None
  label: int | list[int]


Splits = dict[str, list[Row]]  # {'train': [...], 'test': [...]}


def write_folder(root, splits, names):
  for split, rows in splits.items():
    for name in names if split == 'train' else ():
      (root / split / name).mkdir(parents=True, exist_ok=True)
    for row in rows:
      path = root / split / names[row.label] / f'{row.key}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(row.image)
  return str(root), None


def write_labels_file(root, splits, names):
  root.mkdir(exist_ok=True)
  with open(root / 'labels.csv', 'w', encoding='utf-8', newline='') as f:
    writer = csv.writer(f)
    writer.writerow(['image', 'label'])
    for split, rows in splits.items():
      for row in rows:
        several = row.label if isinstance(row.label, list) else [row.label]
        path = f'{split}/{row.key}.png'
        writer.writerows([path, names[label]] for label in several)
        if not several:
          writer.writerow([path, ''])
        if row.image is not None:
          (root / path).parent.mkdir(parents=True, exist_ok=True)
          (root / path).write_bytes(row.image)
  return str(root / 'labels.csv'), None


def write_webdataset(root, splits, names):
  for split, rows in splits.items():
    for shard in range(3):
      members = []
      for row in rows[shard * len(rows) // 3 : (shard + 1) * len(rows) // 3]:
        image = [] if row.image is None else [(f'{row.key}.png', row.image)]
        label = [(f'{row.key}.json', f'{{"label": {row.label}}}'.encode())]
        members += image + label
      write_tar(root / f'a-{split}-{shard}.tar', members)
  (root / 'class_names.txt').write_text('\n'.join(names), 'utf-8')
  return f'wds:{root}', None


def write_huggingface(root, splits, names):
  datasets = pytest.importorskip('datasets', reason="the extra 'hf' is not installed")
  label = datasets.ClassLabel(names=names)
  if isinstance(splits['test'][0].label, list):
    label = datasets.Sequence(label)
  image = lambda row: row.image and {'bytes': row.image, 'path': f'{row.key}.png'}
  datasets.disable_progress_bars()
  datasets.DatasetDict(
    {
      split: datasets.Dataset.from_dict(
        {'image': list(map(image, rows)), 'label': [row.label for row in rows]},
        features=datasets.Features(image=datasets.Image(), label=label),
      )
      for split, rows in splits.items()
    }
  ).save_to_disk(root)
  return f'hf:{root}', None


def write_array_record(root, splits, names):
  import tensorflow_datasets as tfds

  label = tfds.features.ClassLabel(names=names)
  if isinstance(splits['test'][0].label, list):
    label = tfds.features.Sequence(label)

  class Any(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = 'any'
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features = {'image': tfds.features.Image(shape=(None, None, 3)), 'label': label}
      return tfds.core.DatasetInfo(
        builder=self,
        supervised_keys=('image', 'label'),
        features=tfds.features.FeaturesDict(features),
      )

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(rows) for split, rows in splits.items()}

    def _generate_examples(self, rows):
      for row in rows:
        yield row.key, {'image': row.image, 'label': row.label}

  Any(data_dir=str(root), file_format='array_record').download_and_prepare()
  return 'any', str(root)


def write_tfrecord(root, splits, names):
  write_array_record(root / 'a', splits, names)
  to_tfrecord(root / 'a' / 'any' / '1.0.0', root / 't' / 'any' / '1.0.0')
  return 'any', str(root / 't')


# Each function writes splits to a new directory and returns (dataset, data_dir).
WRITERS = {
  'folder': write_folder,
  'csv': write_labels_file,
  'webdataset': write_webdataset,
  'huggingface': write_huggingface,
  'array_record': write_array_record,
  'tfrecord': write_tfrecord,
}
SHUFFLES = {'folder', 'array_record', 'tfrecord'}  # the order is not that of writing
SEVERAL = WRITERS.keys() - {'folder'}  # images may have several labels
NO_IMAGE = {'csv', 'webdataset', 'huggingface'}  # there may be a label without an image
