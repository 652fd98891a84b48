"""Read mutated files in subprocesses under a memory limit, and compare the pixels with Pillow's.

    python -m benchmarks.robustness --results=/tmp/robustness.jsonl         # 210,000 files
    python -m benchmarks.robustness --kinds jpeg --sanitize                 # the C extension

A file counts as a failure if reading it kills the process, takes more than 5 seconds, raises
anything but the documented error, or gives other pixels than Pillow, which also decides whether it
is read at all. Failing files are kept in --keep. Chunks of files that are in --results already are
not read again.

--sanitize builds the C extension with AddressSanitizer and UndefinedBehaviorSanitizer. These need
terabytes of address space, so it limits resident memory instead.
"""

import argparse
import collections
from collections.abc import Iterator
import contextlib
import functools
import importlib.machinery
import importlib.util
import io
import json
import logging
import os
import pathlib
import resource
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
import zlib

import numpy as np

SECONDS, MEMORY = 5, 2**30  # for one file: time, and bytes of memory above those at the start
CHUNK = 2500
IMAGES = ('jpeg', 'png', 'webp', 'gif', 'bmp')
KINDS = (*IMAGES, 'npz', 'safetensors')
ROOT = pathlib.Path(__file__).parent.parent
EXTENSION = 'ROBUSTNESS_EXTENSION'  # environment variable: the path of the C extension to test


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--files', type=int, default=30_000, help='mutated files of each kind')
  parser.add_argument('--kinds', nargs='+', default=KINDS, choices=KINDS)
  parser.add_argument('--results', type=pathlib.Path, help='JSON lines, continued if they exist')
  parser.add_argument('--keep', type=pathlib.Path, default=pathlib.Path('robustness_failures'))
  parser.add_argument('--sanitize', action='store_true')
  args = parser.parse_args()
  chunks = {}
  if args.results and args.results.exists():
    records = map(json.loads, args.results.read_text().splitlines())
    chunks = {(r['kind'], r['first']): r for r in records}
  failures = total = 0
  with tempfile.TemporaryDirectory() as directory:
    environment = sanitizers(directory) if args.sanitize else {}
    for kind in args.kinds:
      counts, slowest = collections.Counter(), 0.0
      for first in range(0, args.files, CHUNK):
        if (kind, first) not in chunks:
          chunk = read_chunk(kind, range(first, min(first + CHUNK, args.files)), args, environment)
          chunks[kind, first] = chunk
          if args.results:
            with open(args.results, 'a') as f:
              f.write(json.dumps(chunk) + '\n')
        counts.update(chunks[kind, first]['counts'])
        slowest = max(slowest, chunks[kind, first]['slowest'])
      failures += sum(n for result, n in counts.items() if 'FAILED' in result)
      total += counts.total()
      print(f'{kind}: {counts.total():,} files, slowest {slowest:.2f} s', flush=True)
      for result, n in counts.most_common():
        print(f'{n:8,}  {result}', flush=True)
  print(f'{total:,} files, {failures} failures')
  return int(failures > 0)


def read_chunk(
  kind: str, indices: range, args: argparse.Namespace, environment: dict[str, str]
) -> dict:
  """Read files in a subprocess. When one kills it, another process goes on after that file."""
  chunk = {'kind': kind, 'first': indices.start, 'counts': collections.Counter(), 'slowest': 0.0}
  while indices:
    process = subprocess.run(
      [
        sys.executable,
        '-c',
        f'from benchmarks.robustness import work; work({kind!r}, {indices!r})',
      ],
      cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', **environment},
      stdout=subprocess.PIPE,
      text=True,
    )
    results = [line.split(' ', 1) for line in process.stdout.splitlines()]
    if process.returncode:
      died = 'takes too long' if process.returncode == -signal.SIGALRM else process.returncode
      results.append([str(SECONDS), f'FAILED: the process died ({died})'])
    for index, (seconds, result) in zip(indices, results):
      chunk['counts'][result] += 1
      chunk['slowest'] = max(chunk['slowest'], float(seconds))
      if 'FAILED' in result:
        args.keep.mkdir(parents=True, exist_ok=True)
        (args.keep / f'{kind}_{index}').write_bytes(mutated(kind, index))
        print(f'{kind} {index}: {result}', file=sys.stderr, flush=True)
    indices = indices[len(results) :]
  return chunk


def sanitizers(directory: str) -> dict[str, str]:
  """Build the C extension with sanitizers. Return the environment in which Python can load it."""
  library = os.path.join(directory, f'_jpegcrop{sysconfig.get_config_var("EXT_SUFFIX")}')
  flags = ['-shared', '-fPIC', '-g', '-O1', '-fsanitize=address,undefined', '-fno-sanitize-recover']
  include = f'-I{sysconfig.get_paths()["include"]}'
  source = str(ROOT / 'vit_jax/data/_jpegcrop.c')
  subprocess.run(['gcc', *flags, include, source, '-ljpeg', '-o', library], check=True)
  runtimes = [
    subprocess.check_output(['gcc', f'-print-file-name=lib{name}.so'], text=True).strip()
    for name in ('asan', 'ubsan')
  ]
  return {
    'LD_PRELOAD': ':'.join(runtimes),
    'ASAN_OPTIONS': 'detect_leaks=0:allocator_may_return_null=1:hard_rss_limit_mb=3000',
    EXTENSION: library,
  }


# --- The files


def mutated(kind: str, index: int) -> bytes:
  """Return mutated file number `index` of a kind. It depends on nothing else."""
  rng = np.random.default_rng([KINDS.index(kind), index])
  files = originals(kind)
  data = bytearray(files[index % len(files)])
  for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
    if data:
      MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng)
  return repair_checksums(data) if kind == 'png' and rng.random() < 0.6 else bytes(data)


@functools.cache
def originals(kind: str) -> list[bytes]:
  from tests.helpers.image_variants import jpeg_variants, other_variants
  from tests.helpers.images import smooth_image

  if kind in IMAGES:
    variants = jpeg_variants if kind == 'jpeg' else other_variants
    files = [file for size in ((33, 47), (16, 80)) for file in variants(smooth_image(*size))]
    return [data for name, data in files if kind == 'jpeg' or kind in name]
  names = {
    'npz': ('vit_token.npz', 'vit_gap.npz', 'dialect2_map.npz'),
    'safetensors': ('timm_tiny/model.safetensors', 'hf_tiny/model.safetensors'),
  }
  return [(ROOT / 'tests/data/files' / name).read_bytes() for name in names[kind]]


def flip_bits(data: bytearray, rng: np.random.Generator) -> None:
  for position in rng.integers(len(data), size=int(rng.integers(1, 9))):
    data[position] ^= 1 << int(rng.integers(8))


def flip_a_bit_of_the_header(data: bytearray, rng: np.random.Generator) -> None:
  data[int(rng.integers(min(len(data), 200)))] ^= 1 << int(rng.integers(8))


def overwrite(data: bytearray, rng: np.random.Generator) -> None:
  start, length = int(rng.integers(len(data))), int(rng.integers(1, 33))
  data[start : start + length] = rng.bytes(min(length, len(data) - start))


def write_number(data: bytearray, rng: np.random.Generator) -> None:
  numbers = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 60000, 13000)
  code = rng.choice(['<H', '>H', '<I', '>I', '<B'])
  number = int(rng.choice(numbers)) & ((1 << 8 * struct.calcsize(code)) - 1)
  start = int(rng.integers(min(len(data), 300)))
  data[start : start + struct.calcsize(code)] = struct.pack(code, number)


def cut(data: bytearray, rng: np.random.Generator) -> None:
  del data[int(rng.integers(len(data))) :]


def delete(data: bytearray, rng: np.random.Generator) -> None:
  start = int(rng.integers(len(data)))
  del data[start : start + int(rng.integers(1, 65))]


def repeat(data: bytearray, rng: np.random.Generator) -> None:
  start = int(rng.integers(len(data)))
  data[start:start] = data[start : start + int(rng.integers(1, 257))]


def insert(data: bytearray, rng: np.random.Generator) -> None:
  start = int(rng.integers(len(data) + 1))
  data[start:start] = rng.bytes(int(rng.integers(1, 65)))


MUTATIONS = (
  flip_bits,
  flip_bits,
  flip_a_bit_of_the_header,
  overwrite,
  write_number,
  cut,
  delete,
  repeat,
  insert,
)


def repair_checksums(data: bytearray) -> bytes:
  """Return a PNG file with the checksums that its chunks should have, so that they are read."""
  out, position = bytearray(data), 8
  while position + 12 <= len(out):
    (length,) = struct.unpack_from('>I', out, position)
    end = position + 8 + length
    if end + 4 > len(out):
      break
    struct.pack_into('>I', out, end, zlib.crc32(out[position + 4 : end]))
    position = end + 4
  return bytes(out)


# --- Reading them


def work(kind: str, indices: range) -> None:
  """Read files. Print a line for each: seconds and result."""
  if path := os.environ.get(EXTENSION):
    loader = importlib.machinery.ExtensionFileLoader('vit_jax.data._jpegcrop', path)
    spec = importlib.util.spec_from_loader('vit_jax.data._jpegcrop', loader)
    assert spec is not None
    import vit_jax.data

    vit_jax.data._jpegcrop = importlib.util.module_from_spec(spec)
    sys.modules['vit_jax.data._jpegcrop'] = vit_jax.data._jpegcrop
  warnings.simplefilter('ignore')
  logging.getLogger('vit_jax').setLevel(logging.CRITICAL)
  check = check_image if kind in IMAGES else check_checkpoint
  check(kind, originals(kind)[0])  # imports everything before memory is limited
  if EXTENSION not in os.environ:
    with open('/proc/self/statm') as f:
      limit = int(f.read().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  for index in indices:
    data = mutated(kind, index)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)  # nobody handles the signal, so it kills
    start = time.monotonic()
    try:
      result = check(kind, data)
    except Exception as e:  # anything but the documented error
      result = f'FAILED: {type(e).__name__}'
    seconds = time.monotonic() - start
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.write(1, f'{seconds:.3f} {result}\n'.encode())


def check_image(kind: str, data: bytes) -> str:
  """Decode an image as a whole and a box of it, and compare both with Pillow."""
  from vit_jax.data.decode import decode_crop, decode_image
  from vit_jax.data.decode_warnings import collect_warnings

  expected = pillow_pixels(data)
  try:
    with collect_warnings() as found:
      whole = decode_image(data, apply_exif=True)
  except ValueError as e:
    if expected is None:
      return 'refused, as by Pillow'
    for reason in ('claims', 'memory'):
      if reason in str(e):
        return f'refused: {reason}'
    return f'FAILED: refused, although Pillow accepts it ({e})'
  if expected is None:
    harmless = any(words in w for w in found for words in ('checksum', 'before the image'))
    return (
      'read with a warning' if harmless else f'FAILED: read, although Pillow refuses it {found}'
    )
  if whole.shape != expected.shape or (whole != expected).any():
    return 'FAILED: other pixels'
  height, width, _ = expected.shape
  y, x = height // 3, width // 4
  box = y, x, max(1, (height - y) // 2), max(1, (width - x) // 2)
  try:
    with collect_warnings():
      crop = decode_crop(data, lambda h, w: box, apply_exif=True)
  except ValueError as e:
    if 'memory' in str(e):  # which holds the two other copies now
      return 'refused: memory'
    raise
  if (crop != expected[y : y + box[2], x : x + box[3]]).any():
    return 'FAILED: other pixels of a box'
  return 'read with a warning' if found else 'read'


def pillow_pixels(data: bytes) -> np.ndarray | None:
  """Return the pixels that Pillow gives, or None if it refuses the file."""
  from PIL import Image, ImageOps

  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      with contextlib.suppress(Exception):  # a damaged EXIF block
        image = ImageOps.exif_transpose(image)
      if image.mode.startswith('I'):  # 16 bits
        return np.repeat((np.asarray(image).astype(np.uint16) >> 8)[..., None], 3, -1)
      return np.asarray(image.convert('RGB'))
  except Exception:  # Pillow raises nearly every type of exception
    return None


def check_checkpoint(kind: str, data: bytes) -> str:
  """Read a checkpoint. An npz has checksums, so its arrays must be those of an original."""
  from vit_jax.errors import InputError
  from vit_jax.pretrained.formats import read_arrays

  with checkpoint_file(kind, data) as path:
    try:
      arrays = read_arrays(path, num_heads=4)
    except InputError:
      return 'refused'
  if kind == 'npz':
    known = original_arrays()
    for name, array in arrays.items():
      if name in known and not any(np.array_equal(array, other) for other in known[name]):
        return 'FAILED: other numbers'
  return 'read'


@functools.cache
def original_arrays() -> dict[str, list[np.ndarray]]:
  from vit_jax.pretrained.formats import read_arrays

  known = collections.defaultdict(list)
  for data in originals('npz'):
    with checkpoint_file('npz', data) as path:
      for name, array in read_arrays(path).items():
        known[name].append(array)
  return known


@contextlib.contextmanager
def checkpoint_file(kind: str, data: bytes) -> Iterator[str]:
  with tempfile.NamedTemporaryFile(suffix=f'.{kind}', dir='/dev/shm') as f:
    f.write(data)
    f.flush()
    yield f.name


if __name__ == '__main__':
  sys.exit(main())
