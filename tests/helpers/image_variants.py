"""Image files in the variants that data sets contain, made from one image."""

from collections.abc import Iterator
import struct
import zlib

import cv2
import numpy as np
from PIL import Image
import simplejpeg

from tests.helpers.images import encode


def png_chunk(kind, payload):
  body = kind + payload
  return struct.pack('>I', len(payload)) + body + struct.pack('>I', zlib.crc32(body))


def png_file(image, *chunks, interlaced=False):
  """Return a PNG of an RGB image without filters. `chunks` come before the pixels."""
  height, width, _ = image.shape
  # Adam7: (first row, first column, step of rows, step of columns) of each pass.
  passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
  passes = [*passes, (1, 0, 2, 1)] if interlaced else [(0, 0, 1, 1)]
  parts = [image[y::dy, x::dx] for y, x, dy, dx in passes]
  rows = b''.join(b'\0' + row.tobytes() for part in parts if part.size for row in part)
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, interlaced)
  return b''.join(
    [
      b'\x89PNG\r\n\x1a\n',
      png_chunk(b'IHDR', header),
      *chunks,
      png_chunk(b'IDAT', zlib.compress(rows)),
      png_chunk(b'IEND', b''),
    ]
  )


def jpeg_with_segment(data, marker, payload):
  """Return a JPEG file with a segment inserted at its start."""
  return data[:2] + bytes([0xFF, marker]) + struct.pack('>H', len(payload) + 2) + payload + data[2:]


def exif_block(orientation, order='<', kind=3, before=()):
  """Return a TIFF header and a directory with the orientation as SHORT (3) or LONG (4)."""
  entries = [*before, struct.pack(order + 'HHI', 0x0112, kind, 1)]
  value = struct.pack(order + ('Hxx' if kind == 3 else 'I'), orientation)
  magic = b'II*\0' if order == '<' else b'MM\0*'
  count = struct.pack(order + 'IH', 8, len(entries))
  return magic + count + b''.join([*before, entries[-1] + value]) + bytes(4)


def jpeg_variants(image) -> Iterator[tuple[str, bytes]]:
  """Yield (name, JPEG file) for the variants that Pillow reads."""
  picture = Image.fromarray(image)
  for sampling in ('444', '422', '420', '440', '411', 'Gray'):
    yield f'baseline {sampling}', simplejpeg.encode_jpeg(image, 85, 'RGB', sampling)
  for sampling in (0, 1, 2):
    options = {'subsampling': sampling, 'quality': 70}
    yield f'progressive {sampling}', encode(image, 'JPEG', progressive=True, **options)
    yield f'optimized {sampling}', encode(image, 'JPEG', optimize=True, **options)
    yield f'restarts {sampling}', encode(image, 'JPEG', restart_marker_blocks=2, **options)
  yield 'progressive restarts', encode(image, 'JPEG', progressive=True, restart_marker_rows=1)
  yield 'rgb', encode(image, 'JPEG', keep_rgb=True)
  yield 'gray', encode(image[..., 0], 'JPEG')
  yield 'progressive gray', encode(image[..., 0], 'JPEG', progressive=True)
  yield 'cmyk', encode(picture.convert('CMYK'), 'JPEG')
  yield 'progressive cmyk', encode(picture.convert('CMYK'), 'JPEG', progressive=True)
  inverted = np.ascontiguousarray(255 - np.asarray(picture.convert('CMYK')))
  yield 'adobe ycck', simplejpeg.encode_jpeg(inverted, 90, 'CMYK', '444')
  yield 'mpo', encode(picture, 'MPO', save_all=True, append_images=[picture])
  data = encode(image, 'JPEG', quality=90)
  for junk in (1, 14, 245, 3000):
    yield f'{junk} bytes before the end marker', data[:-2] + bytes(junk) + data[-2:]
  yield 'bytes after the end marker', data + b'\r\n\xff\xd8junk'
  yield 'padded markers', data[:2] + b'\xff\xff' + data[2:]
  yield 'junk before a marker', data[:2] + b'\xff\xe5\0\2\1\2\3' + data[2:]
  yield 'exif noise', jpeg_with_segment(data, 0xE1, b'Exif\0\0' + bytes(range(256)))
  yield 'short exif', jpeg_with_segment(data, 0xE1, b'Exif\0\0II*\0')
  yield 'comment', jpeg_with_segment(data, 0xFE, b'\xff\xd9 is not the end')
  start = data.index(b'\xff\xda') + 14
  for position in np.linspace(start, len(data) - 3, 12, dtype=int):
    flipped = bytearray(data)
    flipped[position] ^= 0x10
    yield f'flipped bit in byte {position}', bytes(flipped)
  middle = (start + len(data)) // 2
  yield 'bytes lost', data[:middle] + data[middle + 9 :]
  yield 'half of the pixels lost', data[:middle] + b'\xff\xd9'


def other_variants(image) -> Iterator[tuple[str, bytes]]:
  """Yield (name, file) for the variants of other formats that Pillow reads. None has 16 bits."""
  picture = Image.fromarray(image)
  alpha = np.dstack([image, image[::-1, :, 0]])
  palette = picture.quantize(50)
  for mode in ('RGB', 'L', '1', 'LA', 'RGBA'):
    converted = Image.fromarray(alpha) if mode == 'RGBA' else picture.convert(mode)
    yield f'png {mode}', encode(converted, 'PNG')
  yield 'interlaced png', png_file(image, interlaced=True)
  yield 'palette png', encode(palette, 'PNG')
  yield 'palette png with a transparent color', encode(palette, 'PNG', transparency=3)
  yield 'palette png with transparency', encode(palette, 'PNG', transparency=bytes(range(50)))
  yield 'small palette png', encode(picture.quantize(3), 'PNG')
  yield 'png with a transparent color', encode(picture, 'PNG', transparency=(1, 2, 3))
  yield '16-bit rgb png', cv2.imencode('.png', image.astype(np.uint16) * 257)[1].tobytes()
  frames = [Image.fromarray(255 - image), picture]
  yield 'apng', encode(picture, 'PNG', save_all=True, append_images=frames)
  yield (
    'apng with a default image',
    encode(picture, 'PNG', save_all=True, append_images=frames, default_image=True),
  )
  yield 'png with bytes after it', encode(picture, 'PNG') + b'\n'
  yield 'png with an odd color profile', png_file(image, png_chunk(b'iCCP', b'x\0\0' + b'junk'))
  yield 'png with gamma', png_file(image, png_chunk(b'gAMA', struct.pack('>I', 30000)))
  yield 'gif', encode(picture, 'GIF')
  yield 'gray gif', encode(image[..., 0], 'GIF')
  yield 'animated gif', encode(picture, 'GIF', save_all=True, append_images=frames)
  yield 'transparent gif', encode(palette, 'GIF', transparency=3)
  yield 'interlaced gif', encode(palette, 'GIF', interlace=1)
  for mode in ('RGB', 'L', 'P', '1', 'RGBA'):
    converted = {'RGBA': Image.fromarray(alpha), 'P': palette}.get(mode) or picture.convert(mode)
    yield f'bmp {mode}', encode(converted, 'BMP')
  for compression in (None, 'tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg'):
    yield f'tiff {compression}', encode(picture, 'TIFF', compression=compression)
  yield 'palette tiff', encode(palette, 'TIFF')
  yield 'cmyk tiff', encode(picture.convert('CMYK'), 'TIFF')
  for mode in ('RGB', 'L', '1'):
    yield f'ppm {mode}', encode(picture.convert(mode), 'PPM')
  yield 'webp', encode(picture, 'WEBP')
  yield 'lossless webp', encode(picture, 'WEBP', lossless=True)
  yield 'webp with alpha', encode(Image.fromarray(alpha), 'WEBP')
  yield (
    'lossless webp with alpha',
    encode(Image.fromarray(alpha), 'WEBP', lossless=True, exact=True),
  )
  yield 'animated webp', encode(picture, 'WEBP', save_all=True, append_images=frames)
  yield 'avif', encode(picture, 'AVIF')
  yield 'jpeg 2000', encode(picture, 'JPEG2000')
  yield 'qoi', encode(picture, 'QOI')
