"""Datasets of VTAB as TFDS would prepare them, with the real sizes and features.

Only the files that hold the slices of a task have records, most of which are equal.
"""

import pathlib

import cv2
import numpy as np
import tensorflow_datasets as tfds

from tests.helpers.shapes import masked_crc32c
from vit_jax.data import catalog, prepare
from vit_jax.data import vtab_tasks as data
from vit_jax.data.splits import split_ranges

TEST_SIZES = dict(  # sizes of the test sets in arXiv 1910.04867
  caltech101=6084,
  cifar100=10_000,
  dtd=1880,
  flowers102=6149,
  pets=3669,
  sun397=21_750,
  svhn=26_032,
  camelyon=32_768,
  eurosat=5400,
  resisc45=6300,
  retinopathy=42_670,
  clevr_count=15_000,
  clevr_distance=15_000,
  dmlab=22_735,
  kitti_distance=711,
  dsprites_location=73_728,
  dsprites_orientation=73_728,
  smallnorb_azimuth=12_150,
  smallnorb_elevation=12_150,
)
DATASETS = sorted({task.dataset for task in data.TASKS.values()})


def make_example(dataset, features, i):
  """Return an example of the dataset; its labels follow from i."""
  example = {}
  for key, feature in features.items():
    if isinstance(feature, tfds.features.Image):
      height, width, channels = (side or 20 for side in feature.shape)
      image = np.random.default_rng(i).integers(0, 256, (height, width, channels), np.uint8)
      if dataset == 'dsprites':
        image //= 128
      example[key] = cv2.imencode('.png', image)[1].tobytes()
    elif isinstance(feature, tfds.features.ClassLabel):
      example[key] = i % feature.num_classes
    elif isinstance(feature, tfds.features.Text):
      example[key] = f'{i}'
    elif isinstance(feature, tfds.features.Tensor):
      example[key] = np.zeros(feature.shape, feature.np_dtype)
    else:
      example[key] = []
  if dataset == 'clevr':
    depth = [4, 8.2, 8.7, 9.2, 9.7, 30][i % 6]
    example['objects'] = [
      {
        '3d_coords': np.zeros(3, np.float32),
        'color': 0,
        'material': 0,
        'rotation': 0.0,
        'shape': 0,
        'size': 0,
        'pixel_coords': np.array([9, 9, depth + k], np.float32),
      }
      for k in range(3 + i % 8)
    ]
  elif dataset == 'kitti':
    boxes = dict(
      alpha=0.0,
      bbox=tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
      occluded=0,
      rotation_y=0.0,
      dimensions=np.zeros(3, np.float32),
      truncated=0.0,
    )
    example['objects'] = [
      boxes | {'type': kind, 'location': np.array([1, 2, z], np.float32)}
      for kind, z in [(3, 1), (0, [5, 15, 50, 50][i % 4])]
      if kind or i % 4 < 3
    ]
  return example


def shard_bounds(dataset, split, size):
  """Return where the tasks' slices of a split begin and end."""
  bounds = {0, size}
  sizes = {k: [v] for k, v in catalog.lookup(dataset).splits.items()}
  for task in data.TASKS.values():
    if task.dataset == dataset:
      for expression in task.splits.values():
        for part, start, stop in split_ranges(expression, sizes):
          if part == split:
            bounds |= {start, stop, min(start + 4, stop)}
  return sorted(bounds)


def framed(record):
  length = len(record).to_bytes(8, 'little')
  return length + masked_crc32c(length).to_bytes(4, 'little') + record + bytes(4)


def write_dataset(data_dir, dataset, change=0):
  """Prepare a dataset as TFRecord, with `change` more examples in its last file."""
  name, _, config = dataset.partition('/')
  builder = prepare.builder_class(name)(
    data_dir=str(data_dir / 'none'), **({'config': config} if config else {})
  )
  info = builder.info
  directory = pathlib.Path(data_dir, name, config, str(builder.version))
  directory.mkdir(parents=True)
  serializer = tfds.core.example_serializer.ExampleSerializer(info.features.get_serialized_info())
  records = [
    framed(
      serializer.serialize_example(
        info.features.encode_example(make_example(name, info.features, i))
      )
    )
    for i in range(4)
  ]
  splits = []
  for split, size in catalog.lookup(dataset).splits.items():
    bounds = shard_bounds(dataset, split, size)
    lengths = [b - a for a, b in zip(bounds, bounds[1:])]
    for k, length in enumerate(lengths):
      file = directory / f'{name}-{split}.tfrecord-{k:05d}-of-{len(lengths):05d}'
      file.write_bytes(
        b''.join(records[(bounds[k] + j) % 4] for j in range(length)) if length <= 800 else b''
      )
    lengths[-1] += change
    template = tfds.core.ShardedFileTemplate(
      data_dir=directory, dataset_name=name, split=split, filetype_suffix='tfrecord'
    )
    splits.append(
      tfds.core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=0, filename_template=template
      )
    )
  info.set_file_format('tfrecord')
  info.set_splits(tfds.core.splits.SplitDict(splits))
  info.write_to_directory(directory)
