"""Tar files in the WebDataset format, as its tools write them."""

import io
import json
import tarfile

from tests.helpers.shapes import png


def write_tar(path, members, **options):
  """Write a tar of (name, content) members."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w', **options) as tar:
    for name, content in members:
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))


def cls_sample(key, image, label):
  return [(f'{key}.cls', str(label).encode()), (f'{key}.png', image)]


def json_sample(key, image, label):
  return [(f'{key}.png', image), (f'{key}.json', json.dumps({'label': label}).encode())]


def write_shards(folder, name, num_shards, per_shard, first=0, sample=cls_sample, label=None):
  """Write {name}-000.tar, ... with images png(first), ..., of three classes."""
  label = label or (lambda i: i % 3)
  for shard in range(num_shards):
    members = []
    for i in range(first + shard * per_shard, first + (shard + 1) * per_shard):
      members += sample(f'{i:06}', png(i), label(i))
    write_tar(folder / f'{name}-{shard:03}.tar', members)
