"""Decode images with Pillow, the reference for the files that are read and for their pixels.

The messages of errors complete the sentence "Cannot read x: ...".
"""

import contextlib
import io
import math

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from vit_jax.data.decode_warnings import pillow_warnings, warn
from vit_jax.data.png_chunks import check_png, lacks_rows
from vit_jax.errors import first_line

_PILLOW_FORMATS = {'HEIC': 'HEIF', 'JPEG 2000': 'JPEG2000', 'WebP': 'WEBP'}
# The largest number of pixels that a byte of a file can hold, by the decoder that Pillow uses.
_PIXELS_PER_BYTE = {
  'jpeg': 512,  # a progressive scan spends at least a bit on a block of 8 x 8 pixels
  'zip': 8 * 1032,  # deflate at its best, at 1 bit per pixel
  'gif': 4096,  # a code stands for at most 4,096 pixels
  'raw': 8,
  'ppm': 8,
  'ppm_plain': 1,
}
_DECODE_FIRST = ('WebP', 'AVIF', 'HEIC')  # Pillow gets raw pixels from the libraries for these
_METADATA = {'exif', 'Raw profile type exif', 'XML:com.adobe.xmp', 'xmp'}  # may tell an orientation
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


def decode_with_pillow(data: bytes, kind: str, *, apply_exif: bool) -> np.ndarray:
  """Decode an image file: (height, width, 3) uint8 RGB.

  Args:
    data: the bytes of the file.
    kind: the format, as `image_format` names it.
    apply_exif: rotate the image as its EXIF orientation says.

  Raises:
    ValueError: Pillow refuses the file, or its header claims more pixels than it can hold.
  """
  _check_support(kind)
  problems, may_warn = [], True
  if kind == 'PNG':
    data, chunks, num_pixels, problems = check_png(data)
    may_warn = b'acTL' in chunks or 2 * num_pixels > _pixel_limit()
  try:
    with _open(data, kind, may_warn) as image:
      with pillow_warnings() if kind in ('TIFF', 'HEIC') else contextlib.nullcontext():
        image.load()
      pixels = _to_rgb(image)
      if kind == 'PNG' and not pixels[-1].any() and lacks_rows(data):
        problems.append('the file lacks rows of pixels')
      may_turn = apply_exif and (_METADATA & image.info.keys() or kind == 'TIFF')
      orientation = _read_orientation(image) if may_turn else 1
  except MemoryError as e:
    raise ValueError(f'the pixels of this {kind} do not fit in memory') from e
  except Exception as e:  # Pillow raises nearly every type of exception for damaged files
    raise ValueError(f'damaged {kind}: {problems[-1] if problems else _reason(e)}') from e
  for problem in problems:
    warn(problem)
  return orient(pixels, orientation)


def pillow_pixels(image: Image.Image) -> np.ndarray:
  """Return an image of Pillow as (height, width, 3) uint8 RGB, rotated as its EXIF block says.

  Raises:
    ValueError: the image was opened from a damaged file.
  """
  try:
    with pillow_warnings():
      image.load()
    return orient(_to_rgb(image), _read_orientation(image))
  except MemoryError as e:
    raise ValueError('its pixels do not fit in memory') from e
  except Exception as e:  # Pillow raises nearly every type of exception for damaged files
    raise ValueError(f'damaged {image.format or "image"}: {_reason(e)}') from e


def jpeg_orientation(data: bytes) -> int:
  """Return the EXIF orientation of a JPEG file, 1 to 8. The default is 1, which is as stored.

  Raises:
    ValueError: the header is damaged.
  """
  try:
    with _open(data, 'JPEG', may_warn=True) as image:
      return _read_orientation(image)
  except Exception as e:  # Pillow raises nearly every type of exception for damaged files
    raise ValueError(f'damaged JPEG: {_reason(e)}') from e


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
  """Rotate and mirror (H, W, 3) pixels as an EXIF orientation says."""
  swap, flip = _ORIENTATIONS.get(orientation, (False, None))
  if swap:
    image = cv2.transpose(image)
  return image if flip is None else cv2.flip(image, flip)


def fits(width: int, height: int, data: bytes, decoder: str = 'jpeg') -> bool:
  """Return True if a file can hold an image of this size, and the size is within Pillow's limit.

  Args:
    width: in pixels, as the header of the file claims.
    height: likewise.
    data: the bytes of the file.
    decoder: Pillow's name of the decoder.
  """
  most = min(_pixel_limit(), len(data) * _PIXELS_PER_BYTE.get(decoder, math.inf))
  return width * height <= most


def _pixel_limit() -> float:
  return 2 * (Image.MAX_IMAGE_PIXELS or math.inf)  # from here on, Pillow refuses to open a file


def _check_size(width: int, height: int, data: bytes, decoder: str = '') -> None:
  """Raise ValueError for an image with too many pixels, before memory for them is taken."""
  if not fits(width, height, data, decoder):
    over_limit = width * height > _pixel_limit()
    most = f'the limit of {_pixel_limit():,}' if over_limit else f'{len(data):,} bytes can hold'
    raise ValueError(f'its header claims {width:,} x {height:,} pixels, more than {most}')


def _check_support(kind: str) -> None:
  """Raise ValueError if Pillow needs something else to read a format."""
  if kind == 'AVIF' and not _reads_avif():
    raise ValueError('it is an AVIF image. To read it, run `pip install --upgrade pillow`')
  if kind == 'HEIC':
    try:
      import pillow_heif  # optional
    except ImportError as e:
      raise ValueError('it is a HEIC image. To read it, run `pip install pillow-heif`') from e
    pillow_heif.register_heif_opener()


def _reads_avif() -> bool:
  """Return True if this Pillow, or a plugin for an older one, reads AVIF."""
  try:
    from PIL import AvifImagePlugin  # from Pillow 11.3 on
  except ImportError:
    return False
  return AvifImagePlugin.SUPPORTED


def _open(data: bytes, kind: str, may_warn: bool) -> Image.Image:
  """Read the header of an image file, and check the size that it claims."""
  if kind == 'WebP':  # Pillow takes memory for the pixels when it reads the header
    _check_size(*_webp_size(data), data)
  with pillow_warnings() if may_warn else contextlib.nullcontext():
    image = Image.open(io.BytesIO(data), formats=[_PILLOW_FORMATS.get(kind, kind)])
  if image.tile and kind not in _DECODE_FIRST:
    decoder, box = image.tile[0][:2]
    # The first frame of a GIF may be smaller than the image.
    left, top, right, bottom = box if kind == 'GIF' and box else (0, 0, *image.size)
    _check_size(right - left, bottom - top, data, decoder)
  return image


def _webp_size(data: bytes) -> tuple[int, int]:
  """Return (width, height) from the header of a WebP file."""
  header = data[12:30].ljust(18, b'\0')
  if header.startswith(b'VP8X'):
    return (
      1 + int.from_bytes(header[12:15], 'little'),
      1 + int.from_bytes(header[15:18], 'little'),
    )
  if header.startswith(b'VP8L'):
    bits = int.from_bytes(header[9:13], 'little')
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
  return (
    int.from_bytes(header[14:16], 'little') & 0x3FFF,
    int.from_bytes(header[16:18], 'little') & 0x3FFF,
  )


def _to_rgb(image: Image.Image) -> np.ndarray:
  """Return the pixels of a loaded image as Pillow converts them to RGB, without rotating them."""
  if image.mode.startswith('I;16') or (image.mode == 'I' and image.format in ('PNG', 'PPM')):
    gray = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)
  if image.mode in ('I', 'F'):
    warn('values above 255 become white')
  if image.mode == 'P' and 'transparency' in image.info:
    image = image.copy()
    del image.info['transparency']  # RGB does not depend on it, but Pillow would warn
  return np.array(image.convert('RGB'))


def _read_orientation(image: Image.Image) -> int:
  """Return the orientation that Pillow's `exif_transpose` applies: 1 to 8."""
  try:
    with pillow_warnings():
      orientation = image.getexif().get(_ORIENTATION_TAG, 1)
  except Exception as e:  # Pillow raises many types of exceptions, and other viewers show the image
    warn(f'its EXIF block is damaged ({_reason(e)}), so the image stays as stored')
    return 1
  return orientation if orientation in _ORIENTATIONS else 1


def _reason(error: Exception) -> str:
  if isinstance(error, UnidentifiedImageError):
    return 'its header is broken'
  if isinstance(error, Image.DecompressionBombError):
    return f'its header claims more pixels than the limit of {_pixel_limit():,}'
  return first_line(error).rstrip('.')
