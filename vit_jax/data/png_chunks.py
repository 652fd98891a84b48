"""Check the chunks of a PNG file, where Pillow checks too little or too much."""

import struct
from typing import NamedTuple
import zlib

_SIGNATURE_BYTES = 8
_ANCILLARY = 0x20  # this bit of the first letter marks a chunk that no decoder needs
_PROFILE_HEADER_BYTES = 128
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type


class PngChunks(NamedTuple):
  """A PNG file whose chunks have been checked."""

  data: bytes  # the file, without ancillary chunks whose checksum is wrong
  kinds: set[bytes]
  pixels: int  # width * height, as the header claims
  problems: list[str]  # each completes the sentence "Read x with a warning: ..."


def check_png(data: bytes) -> PngChunks:
  """Compare the checksums of the chunks of a PNG file, up to its end marker.

  Pillow compares no checksums from the pixels on. Before them, it refuses a wrong checksum even of
  a chunk that nobody needs, such as a comment. Other decoders skip such a chunk, so it is removed.
  """
  width, height = struct.unpack('>II', data[16:24].ljust(8, b'\0'))
  kinds, problems, kept = set(), [], []
  kept_to, position, kind = 0, _SIGNATURE_BYTES, b''
  while kind != b'IEND':
    length, kind = struct.unpack('>I4s', data[position : position + 8].ljust(8, b'\0'))
    end = position + 12 + length
    if end > len(data):
      problems.append('the file is cut short')
      break
    kinds.add(kind)
    if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], 'big'):
      problems.append(f'wrong checksum of chunk {kind!r}')
      if kind[0] & _ANCILLARY and b'IDAT' not in kinds:
        kept.append(data[kept_to:position])
        kept_to = end
    elif kind == b'iCCP' and not _has_profile(data[position + 8 : end - 4]):
      problems.append('the color profile is damaged')
    position = end
  return PngChunks(b''.join([*kept, data[kept_to:]]), kinds, width * height, problems)


def lacks_rows(data: bytes) -> bool:
  """Return True if a PNG file holds fewer rows of pixels than it claims. Pillow makes them black.

  This inflates the pixels, so call it only if the last row is black. It skips interlaced files.
  """
  width, height, depth, color, interlaced = struct.unpack_from('>IIBBxxB', data, 16)
  pixels, position, kind = [], _SIGNATURE_BYTES, b''
  while kind != b'IEND' and position + 12 <= len(data):
    length, kind = struct.unpack_from('>I4s', data, position)
    if kind == b'IDAT':
      pixels.append(data[position + 8 : position + 8 + length])
    position += 12 + length
  row = 1 + -(-width * depth * _CHANNELS.get(color, 1) // 8)
  try:
    inflated = zlib.decompressobj().decompress(b''.join(pixels), row * height)
  except zlib.error:  # after the last row, or Pillow would not have read it
    return False
  return not interlaced and len(inflated) < row * height


def _has_profile(payload: bytes) -> bool:
  """Return True if the payload of an iCCP chunk holds a color profile."""
  _, _, compressed = payload.partition(b'\0')  # after a name, 0 and the number of the method
  try:
    profile = zlib.decompressobj().decompress(compressed[1:], _PROFILE_HEADER_BYTES)
  except zlib.error:
    return False
  return len(profile) == _PROFILE_HEADER_BYTES
