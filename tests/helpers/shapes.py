"""A small TFDS dataset 'shapes', prepared in both file formats, and helpers to read sources."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

import cv2
import numpy as np

NUM_TRAIN, NUM_TEST, NUM_SHARDS = 41, 11, 4


def png(seed, size=5):
  image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
  return cv2.imencode('.png', image)[1].tobytes()


def crc32c(data):
  """Compute the checksum of RFC 3720, bit by bit."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  return crc ^ 0xFFFFFFFF


def masked_crc32c(data):
  crc = crc32c(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_tfrecord(path, records):
  with open(path, 'wb') as f:
    for record in records:
      length = struct.pack('<Q', len(record))
      f.write(length + struct.pack('<I', masked_crc32c(length)))
      f.write(record + struct.pack('<I', masked_crc32c(record)))


def write_shapes(
  data_dir,
  image_key='image',
  label_key='label',
  label_feature=None,
  supervised_keys=None,
  num_shards=NUM_SHARDS,
  first_label=0,
  label=lambda i: i % 3,
):
  """Prepare a TFDS dataset 'shapes' as ArrayRecord without TensorFlow."""
  import tensorflow_datasets as tfds

  class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = 'shapes'
    VERSION = tfds.core.Version('1.2.0')

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        supervised_keys=supervised_keys or (image_key, label_key),
        features=tfds.features.FeaturesDict(
          {
            image_key: tfds.features.Image(shape=(None, None, 3)),
            label_key: label_feature or tfds.features.ClassLabel(names=['disc', 'ring', 'star']),
            'note': tfds.features.Text(),
          }
        ),
      )

    def _split_generators(self, dl_manager):
      return {
        'train': self._generate_examples(0, NUM_TRAIN),
        'test': self._generate_examples(1000, NUM_TEST),
      }

    def _generate_examples(self, first, count):
      for i in range(first, first + count):
        yield i, {image_key: png(i), label_key: first_label if i == 0 else label(i), 'note': f'{i}'}

  builder = Shapes(data_dir=str(data_dir), file_format='array_record')
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=num_shards))
  return pathlib.Path(builder.data_dir)


def to_tfrecord(directory, target):
  """Write a copy of an ArrayRecord dataset as TFRecord."""
  from array_record.python import array_record_module

  shutil.copytree(directory, target, ignore=shutil.ignore_patterns('*array_record*'))
  for path in directory.glob('*array_record*'):
    reader = array_record_module.ArrayRecordReader(str(path))
    records = [reader.read([i])[0] for i in range(reader.num_records())]
    write_tfrecord(target / path.name.replace('array_record', 'tfrecord'), records)
  info = json.loads((target / 'dataset_info.json').read_text())
  info['fileFormat'] = 'tfrecord'
  (target / 'dataset_info.json').write_text(json.dumps(info))


def read_all(opened):
  return [opened[i] for i in range(len(opened))]


def run_python(code, *args):
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  return subprocess.run(
    [sys.executable, '-c', code, *map(str, args)],
    env=environment,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
