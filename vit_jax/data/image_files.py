"""List the image files below a directory, and count what is left out.

A file counts if its content is an image, whatever its name. JPEG, PNG and WebP files are recognized
by their extension, so that a folder of a million images is listed in seconds. Of every other
extension, the first bytes of 100 files are read: if all of these are images, or none is, the rest
are taken to be like them. Names that begin with a dot are hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
import functools
import logging
import os

from vit_jax.data.image_format import image_format
from vit_jax.errors import InputError, shortlist

log = logging.getLogger('vit_jax')

_USUAL = frozenset(('jpg', 'jpeg', 'png', 'webp'))
_ENOUGH = 100  # files of an extension that say what the others hold
_FIRST_BYTES = 128


class ImageFiles:
  """Lists the images of one or more directories.

  Attributes:
    hidden: number of hidden files and directories so far.
    others: number of files so far that are no images, by extension.
  """

  def __init__(self):
    """Start with nothing."""
    self.hidden = 0
    self.others: Counter[str] = Counter()
    self._read: Counter[str] = Counter()  # files whose first bytes were read, by extension
    self._images: Counter[str] = Counter()  # images among them

  def list(self, directory: str) -> list[bytes]:
    """Return the paths of the images in a directory and below it, relative to it and sorted.

    Links to directories are followed, but not into a directory that contains the link.

    Raises:
      InputError: a directory cannot be read.
    """
    return sorted(self._list(directory, b'', frozenset()))

  def _list(self, directory: str, prefix: bytes, above: frozenset[tuple[int, int]]) -> list[bytes]:
    """Return the images below a directory, unsorted, with a prefix before their names."""
    images, others, folders = [], [], []
    try:
      with os.scandir(directory) as entries:
        for entry in entries:
          if entry.name.startswith('.'):
            self.hidden += 1
          elif entry.is_dir():
            folders.append(entry)
          elif _extension(entry.name) in _USUAL:
            images.append(prefix + os.fsencode(entry.name))
          else:
            others.append(entry)
    except OSError as e:
      raise InputError(f'Cannot read the folder {directory}: {e.strerror}.') from e
    # In the order of their names, so that the same files are read on every machine.
    images += [
      prefix + os.fsencode(entry.name)
      for entry in sorted(others, key=lambda entry: entry.name)
      if self._is_image(entry)
    ]
    for folder in sorted(folders, key=lambda entry: entry.name):
      status = folder.stat()
      identity = status.st_dev, status.st_ino
      if identity not in above:
        name = prefix + os.fsencode(folder.name) + b'/'
        images += self._list(folder.path, name, above | {identity})
    return images

  def _is_image(self, entry: os.DirEntry[str]) -> bool:
    """Return True if a file is an image. Count it if it is not."""
    extension = _extension(entry.name)
    read, images = self._read[extension], self._images[extension]
    if read < _ENOUGH or 0 < images < read:
      is_image = entry.is_file() and _begins_like_an_image(entry.path)
      self._read[extension] += 1
      self._images[extension] += is_image
    else:
      is_image = images > 0
    self.others[extension] += not is_image
    return is_image

  def left_out(self) -> list[str]:
    """Return in words how many files were left out, and why."""
    reasons = []
    others = +self.others
    if total := others.total():
      kinds = shortlist(
        (f'{n:,} {"." + extension if extension else "without an extension"}')
        for extension, n in others.most_common()
      )
      reasons.append(
        f'{count(total, "file")} that {"is no image" if total == 1 else "are no images"} ({kinds})'
      )
    if self.hidden:
      reasons.append(f'{self.hidden:,} hidden')
    return reasons


@functools.cache
def warn_once(message: str) -> None:
  """Log a warning, but not again when the same directory is listed again."""
  log.warning('%s', message)


def count(number: int, noun: str) -> str:
  """Return '1 file' or '2 files'."""
  return f'{number:,} {noun}{"" if number == 1 else "s"}'


def join_reasons(reasons: Iterable[str]) -> str:
  """Return 'a', 'a and b' or 'a, b and c'."""
  *most, last = reasons
  return f'{", ".join(most)} and {last}' if most else last


def _extension(name: str) -> str:
  """Return the extension in lower case, without its dot, or ''."""
  return name.rpartition('.')[2].lower() if '.' in name else ''


def _begins_like_an_image(path: str) -> bool:
  try:
    with open(path, 'rb') as f:
      return image_format(f.read(_FIRST_BYTES)) is not None
  except OSError:
    return False
