"""Decode image files to RGB pixels.

Pillow is the reference: what it reads by default is read, with its pixels, and what it refuses is
damage and raises ValueError. The messages complete the sentence "Cannot read x: ...". Libraries
that decode ordinary JPEGs faster give the same pixels. When they stumble, Pillow decides.

Something that is wrong with an image that can be read is a warning (see `decode_warnings`).

The exceptions:
- With fast_dct=True, ordinary JPEGs have TensorFlow's default pixels.
- A gray image of 16 bits is cut to its upper 8 bits, as Pillow does with 16-bit RGB, not clipped.
- White space before the image, and PNG chunks that no decoder needs and whose checksum is wrong,
  are skipped, with a warning.
- An EXIF block that cannot be parsed is a warning, and the image stays as stored.
- An image whose file is too small to hold its pixels is refused.
"""

from collections.abc import Callable, Iterator
import functools
import struct
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from vit_jax.data.decode_pillow import decode_with_pillow, fits, jpeg_orientation, orient
from vit_jax.data.decode_warnings import warn
from vit_jax.data.image_format import image_format, image_start

try:
  from vit_jax.data import _jpegcrop  # pyright: ignore[reportAttributeAccessIssue]
except ImportError:  # optional: needs a C compiler and libjpeg-turbo's headers to build
  _jpegcrop = None

Box = tuple[int, int, int, int]  # y, x, height, width in pixels


class _JpegHeader(NamedTuple):
  height: int
  width: int
  plain: bool  # 8-bit baseline or progressive, with 1 or 3 components, of a size that is possible
  has_metadata: bool  # may tell an orientation


def decode_image(data: bytes, *, apply_exif: bool = False, fast_dct: bool = False) -> np.ndarray:
  """Decode an image file. The content decides the format, not the name. See `image_format`.

  Args:
    data: the bytes of the file.
    apply_exif: rotate the image as its EXIF orientation says, as viewers do. This is off for TFDS
      datasets, so that pixels agree with published pipelines.
    fast_dct: decode ordinary JPEGs with the fast, less accurate DCT, as TensorFlow does by default.
      The pixels differ by 1 of 255 levels on average. Pillow uses the accurate one.

  Returns:
    (height, width, 3) uint8 RGB. Gray is repeated, CMYK is converted, alpha is dropped (not
    blended), 16 bits are cut to their upper 8, and of an animation it is the first frame.

  Raises:
    ValueError: the file is not an image, is damaged, or claims more pixels than it can hold.
  """
  data, kind = _identify(data)
  warning = None
  if kind == 'JPEG' and (header := _jpeg_header(data)) and header.plain:
    try:
      image = simplejpeg.decode_jpeg(data, colorspace='RGB', strict=True, fastdct=fast_dct)
    except ValueError as e:
      warning = str(e)
    except MemoryError as e:
      raise ValueError('the pixels of this JPEG do not fit in memory') from e
    else:
      return orient(image, _orientation(data, header, apply_exif))
  image = decode_with_pillow(data, kind, apply_exif=apply_exif)
  if warning and not warning.startswith('tj'):  # libjpeg's own, not a limit of TurboJPEG
    warn(warning)
  return image


def decode_crop(
  data: bytes,
  choose_box: Callable[[int, int], Box],
  *,
  apply_exif: bool = False,
  fast_dct: bool = False,
) -> np.ndarray:
  """Decode the box that choose_box(height, width) returns: (box height, box width, 3) uint8.

  The result equals a slice of decode_image(data). For ordinary JPEGs, the optional C extension
  decodes only the box. It reads the file down to the last row of the box and then looks for the end
  marker. So it refuses what decode_image refuses, but may miss what decode_image warns of.

  Args:
    data: the bytes of the file.
    choose_box: function (height, width) -> (y, x, box height, box width).
    apply_exif: rotate the image as its EXIF orientation says, before the box is chosen.
    fast_dct: as for `decode_image`. The C extension is not used for it.

  Raises:
    ValueError: as `decode_image`.
  """
  choose_box = functools.cache(choose_box)  # it may draw random numbers
  if _jpegcrop is not None and not fast_dct and data.startswith(b'\xff\xd8'):
    header = _jpeg_header(data)
    if header and header.plain and _orientation(data, header, apply_exif) == 1:
      y, x, height, width = choose_box(header.height, header.width)
      crop = np.empty((height, width, 3), np.uint8)
      try:
        _jpegcrop.decode_box(data, crop, y, x, height, width)
        return crop
      except ValueError:
        pass  # decode_image warns of the damage, or refuses the file
  image = decode_image(data, apply_exif=apply_exif, fast_dct=fast_dct)
  y, x, height, width = choose_box(*image.shape[:2])
  return image[y : y + height, x : x + width]


@functools.cache
def use_one_opencv_thread() -> None:
  """Keep OpenCV in the calling thread: the input pipeline already has a thread per image."""
  cv2.setNumThreads(0)


def _identify(data: bytes) -> tuple[bytes, str]:
  """Return the image without white space before it, and its format."""
  kind = image_format(data)
  if kind is None:
    if not data:
      raise ValueError('the image file is empty')
    raise ValueError(f'not an image file: it starts with {bytes(data[:8])!r}')
  start = image_start(data)
  if start:
    warn(f'{start} byte(s) before the image')
  return data[start:], kind


def _orientation(data: bytes, header: _JpegHeader, apply_exif: bool) -> int:
  return jpeg_orientation(data) if apply_exif and header.has_metadata else 1


def _jpeg_header(data: bytes) -> _JpegHeader | None:
  """Return what the segments before the first scan tell, or None if they lack a frame header."""
  frame, has_metadata = None, False
  for marker, payload in _jpeg_segments(data):
    if marker == 0xE1:  # EXIF or XMP
      has_metadata = True
    elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF0 ... SOF15
      frame = marker, payload
  if frame is None or len(frame[1]) < 6:
    return None
  marker, payload = frame
  precision, height, width, components = struct.unpack_from('>BHHB', payload)
  plain = marker <= 0xC2 and precision == 8 and components in (1, 3)
  return _JpegHeader(height, width, plain and fits(width, height, data), has_metadata)


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
