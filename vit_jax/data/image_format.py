"""Recognize the format of an image file by its first bytes."""

import re

# The first bytes of the formats that Pillow reads by default and that datasets contain.
_SIGNATURES = {
  'JPEG': rb'\xff\xd8',
  'PNG': rb'\x89PNG\r\n\x1a\n',
  'GIF': rb'GIF8[79]a',
  # A text may begin with BM, too, so the size of the second header must be one that exists.
  'BMP': rb'BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0',
  'TIFF': rb'II[*+]\0|MM\0[*+]|MM\*\0|II\0\*',
  'PPM': rb'P[1-6f]\s+[#0-9]',
  'WebP': rb'RIFF.{4}WEBP',
  'AVIF': rb'.{4}ftyp(avif|avis|(mif1|msf1).*avi[fs])',
  'HEIC': rb'.{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)',
  'JPEG 2000': rb'\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n',
  'ICO': rb'\x00\x00\x01\x00[^\x00]\x00',
  'QOI': rb'qoif',
  'PSD': rb'8BPS\x00[\x01\x02]',
}
_PATTERNS = {name: re.compile(pattern, re.DOTALL) for name, pattern in _SIGNATURES.items()}
_BEFORE = re.compile(rb'(\xef\xbb\xbf)?[ \t\r\n]*')  # a text's byte order mark, and white space


def image_format(first_bytes: bytes) -> str | None:
  """Return the format of an image file: 'JPEG', 'PNG', 'GIF' and so on, or None for other files.

  The name of the file plays no role. White space before the image is skipped.

  Args:
    first_bytes: the first 64 bytes of the file, or more of them.
  """
  start = image_start(first_bytes)
  for name, pattern in _PATTERNS.items():
    if pattern.match(first_bytes, start, start + 64):
      return name
  return None


def image_start(data: bytes) -> int:
  """Return the number of bytes of white space before an image."""
  found = _BEFORE.match(data, 0, 16)
  return found.end() if found else 0
