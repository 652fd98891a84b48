"""Decode JPEG, PNG and WebP files to RGB pixels, strictly.

A file that is cut short or visibly damaged raises ValueError. Part of an image is never returned.
The messages complete the sentence "Cannot read x: ...".

JPEG has no checksum. Most flipped bits only change pixels. Nearly all others cause the warning
"extraneous bytes before marker", so every warning of the decoder counts as damage, although some of
these files look right. PNG chunks are checked against their CRC, and WebP files against their
stated length. Bytes after the end of the image are ignored.
"""

from collections.abc import Callable, Iterator
import functools
import struct
from typing import NamedTuple
import zlib

import cv2
import numpy as np
import simplejpeg

try:
  from vit_jax.data import _jpegcrop  # pyright: ignore[reportAttributeAccessIssue]
except ImportError:  # optional: needs a C compiler and libjpeg-turbo's headers to build
  _jpegcrop = None

Box = tuple[int, int, int, int]  # y, x, height, width in pixels

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_ORIENTATION_TAG = 0x0112
# {EXIF orientation: (True to swap the axes first, flip code of cv2: 1 for x, 0 for y, -1 for both)}
_ORIENTATIONS = {
  2: (False, 1),
  3: (False, -1),
  4: (False, 0),
  5: (True, None),
  6: (True, 1),
  7: (True, -1),
  8: (True, 0),
}


class _JpegHeader(NamedTuple):
  height: int
  width: int
  plain: bool  # 8-bit baseline or progressive with 1 or 3 components
  orientation: int


def decode_image(data: bytes, *, apply_exif: bool = False) -> np.ndarray:
  """Decode a JPEG, PNG or WebP file. The content decides the format, not the name.

  Args:
    data: the bytes of the file.
    apply_exif: rotate the image as its EXIF orientation says, as viewers do. This is off for TFDS
      datasets, so that pixels agree with published pipelines.

  Returns:
    (height, width, 3) uint8 RGB. Gray is repeated, CMYK is converted, alpha is dropped (not
    blended), and 16 bits are cut to their upper 8.

  Raises:
    ValueError: the file is not an image, or is damaged.
  """
  if data.startswith(b'\xff\xd8'):
    orientation = _jpeg_header(data).orientation
    image = _decode_jpeg(data)
  elif data.startswith(_PNG_SIGNATURE):
    chunks = dict(_png_chunks(data))
    orientation = _exif_orientation(chunks.get(b'eXIf', b''))
    image = _decode_opencv(data, 'PNG')
  elif data.startswith(b'RIFF') and data[8:12] == b'WEBP':
    chunks = dict(_webp_chunks(data))
    orientation = _exif_orientation(chunks.get(b'EXIF', b''))
    image = _decode_opencv(data, 'WebP')
  elif not data:
    raise ValueError('the image file is empty')
  else:
    raise ValueError(f'not a JPEG, PNG or WebP file: it starts with {bytes(data[:8])!r}')
  return _orient(image, orientation) if apply_exif else image


def decode_crop(
  data: bytes, choose_box: Callable[[int, int], Box], *, apply_exif: bool = False
) -> np.ndarray:
  """Decode the box that choose_box(height, width) returns: (box height, box width, 3) uint8.

  The result equals a slice of decode_image(data). For ordinary JPEGs, the optional C extension
  decodes only the box. It reads the file down to the last row of the box and then looks for the end
  marker. So it always refuses a file that is cut short, but may miss other damage that decode_image
  would detect.

  Args:
    data: the bytes of the file.
    choose_box: function (height, width) -> (y, x, box height, box width).
    apply_exif: rotate the image as its EXIF orientation says, before the box is chosen.

  Raises:
    ValueError: the file is not an image, or is damaged.
  """
  if _jpegcrop is not None and data.startswith(b'\xff\xd8'):
    header = _jpeg_header(data)
    if header.plain and (header.orientation == 1 or not apply_exif):
      y, x, height, width = choose_box(header.height, header.width)
      crop = np.empty((height, width, 3), np.uint8)
      try:
        _jpegcrop.decode_box(data, crop, y, x, height, width)
      except ValueError as e:
        raise ValueError(f'damaged JPEG: {e}') from e
      return crop
  image = decode_image(data, apply_exif=apply_exif)
  y, x, height, width = choose_box(*image.shape[:2])
  return image[y : y + height, x : x + width]


@functools.cache
def use_one_opencv_thread() -> None:
  """Keep OpenCV in the calling thread: the input pipeline already has a thread per image."""
  cv2.setNumThreads(0)


def _decode_jpeg(data: bytes) -> np.ndarray:
  try:
    return simplejpeg.decode_jpeg(data, colorspace='RGB', strict=True)
  except ValueError as e:
    raise ValueError(f'damaged JPEG: {e}') from e


def _decode_opencv(data: bytes, kind: str) -> np.ndarray:
  use_one_opencv_thread()
  # With IMREAD_COLOR alone, some versions rotate images of some formats as EXIF says.
  flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  except cv2.error as e:
    raise ValueError(f'damaged {kind}: {e.err}') from e
  if image is None:
    raise ValueError(f'damaged {kind}: OpenCV cannot decode it')
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _orient(image: np.ndarray, orientation: int) -> np.ndarray:
  swap, flip = _ORIENTATIONS.get(orientation, (False, None))
  if swap:
    image = cv2.transpose(image)
  return image if flip is None else cv2.flip(image, flip)


def _jpeg_header(data: bytes) -> _JpegHeader:
  orientation = 1
  for marker, payload in _jpeg_segments(data):
    if marker == 0xE1 and payload.startswith(b'Exif\0\0'):
      orientation = _exif_orientation(payload[6:])
    elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF0 ... SOF15
      if len(payload) < 6:
        break
      precision, height, width, components = struct.unpack_from('>BHHB', payload)
      plain = marker <= 0xC2 and precision == 8 and components in (1, 3)
      return _JpegHeader(height, width, plain, orientation)
  raise ValueError('damaged JPEG: it has no frame header')


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
  """Yield (marker, payload) up to the first scan. Stop early if the file is damaged."""
  position = 2
  while position + 4 <= len(data) and data[position] == 0xFF:
    marker = data[position + 1]
    if marker == 0xFF:  # padding
      position += 1
    elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # has no payload
      position += 2
    elif marker in (0xD9, 0xDA):  # end of image, start of scan
      return
    else:
      end = position + 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
      yield marker, data[position + 4 : end]
      position = end


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yield (type, payload) up to IEND. Raise ValueError for a short file or a wrong CRC."""
  position = len(_PNG_SIGNATURE)
  kind = b''
  while kind != b'IEND':
    if position + 8 > len(data):
      raise ValueError('damaged PNG: the file is cut short')
    length, kind = struct.unpack_from('>I4s', data, position)
    end = position + 8 + length
    if end + 4 > len(data):
      raise ValueError('damaged PNG: the file is cut short')
    if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], 'big'):
      raise ValueError(f'damaged PNG: wrong checksum of chunk {kind!r}')
    yield kind, data[position + 8 : end]
    position = end + 4


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yield (type, payload). Raise ValueError if the file is cut short."""
  file_end = 8 + int.from_bytes(data[4:8], 'little')
  position = 12
  while position < file_end:
    if position + 8 > len(data):
      raise ValueError('damaged WebP: the file is cut short')
    kind, length = struct.unpack_from('<4sI', data, position)
    end = position + 8 + length
    if end > len(data):
      raise ValueError('damaged WebP: the file is cut short')
    yield kind, data[position + 8 : end]
    position = end + length % 2


def _exif_orientation(exif: bytes) -> int:
  """Return the orientation in an EXIF block, 1 to 8. The default is 1, which is as stored."""
  order = {b'II*\0': '<', b'MM\0*': '>'}.get(exif[:4])
  if order is None or len(exif) < 8:
    return 1
  (position,) = struct.unpack_from(order + 'I', exif, 4)
  if position + 2 > len(exif):
    return 1
  (count,) = struct.unpack_from(order + 'H', exif, position)
  for entry in range(position + 2, min(position + 2 + 12 * count, len(exif) - 11), 12):
    tag, kind, _, value = struct.unpack_from(order + 'HHIH', exif, entry)
    if tag == _ORIENTATION_TAG and kind == 3:  # SHORT
      return value if value in _ORIENTATIONS else 1
  return 1
