"""List the image files below a directory, and count what is left out.

A file counts if its content is an image, whatever its name. JPEG, PNG and WebP files are recognized
by their extension, so that a folder of a million images is listed in seconds. Of every other
extension, the first bytes of 100 files are read: if all of these are images, or none is, the rest
are taken to be like them. Names that begin with a dot are hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
import contextlib
import os
import pathlib

from vit_jax.data.file_tree import Entry, FileTree, LocalTree
from vit_jax.data.image_format import image_format
from vit_jax.errors import InputError, shortlist
from vit_jax.files import is_remote

_USUAL = frozenset(('jpg', 'jpeg', 'png', 'webp'))
_ENOUGH = 100  # files of an extension that say what the others hold
_FIRST_BYTES = 128


class ImageFiles:
  """Lists the images of one or more directories.

  Attributes:
    hidden: number of hidden files and directories so far.
    others: number of files so far that are not images, by extension.
    newly_listed: number of images so far that earlier versions left out: those in folders below,
      and those with another extension than .jpg, .jpeg, .png and .webp.
  """

  def __init__(self, tree: FileTree | None = None):
    """Start with nothing. `tree` has the directories, by default those of this machine."""
    self._tree = tree or LocalTree()
    self.hidden = 0
    self.others: Counter[str] = Counter()
    self.newly_listed = 0
    self._read: Counter[str] = Counter()  # files whose first bytes were read, by extension
    self._images: Counter[str] = Counter()  # images among them

  def list(self, directory: str) -> list[bytes]:
    """Return the paths of the images in a directory and below it, relative to it and sorted.

    Links to directories are followed, but not into a directory that contains the link.

    Raises:
      InputError: a directory cannot be read.
    """
    above = frozenset() if is_remote(directory) else _identities(directory)
    return sorted(self._list(directory, b'', above))

  def _list(self, directory: str, prefix: bytes, above: frozenset[Hashable]) -> list[bytes]:
    """Return the images below a directory, unsorted, with a prefix before their names."""
    images, others, folders = [], [], []
    try:
      entries = self._tree.entries(directory)
    except OSError as e:
      raise InputError(f'Cannot read the folder {directory}: {e.strerror}.') from e
    for entry in entries:
      if entry.name.startswith('.'):
        self.hidden += 1
      elif entry.is_directory:
        folders.append(entry)
      elif _extension(entry.name) in _USUAL:
        images.append(prefix + os.fsencode(entry.name))
      else:
        others.append(entry)
    # In the order of their names, so that the same files are read on every machine.
    others = [e for e in sorted(others, key=lambda entry: entry.name) if self._is_image(e)]
    images += [prefix + os.fsencode(entry.name) for entry in others]
    self.newly_listed += len(images) if prefix else len(others)
    for folder in sorted(folders, key=lambda entry: entry.name):
      identity = self._tree.identity(folder.path)
      if identity not in above:
        name = prefix + os.fsencode(folder.name) + b'/'
        images += self._list(folder.path, name, above | {identity})
    return images

  def _is_image(self, entry: Entry) -> bool:
    """Return True if a file is an image. Count it if it is not."""
    extension = _extension(entry.name)
    read, images = self._read[extension], self._images[extension]
    if read < _ENOUGH or 0 < images < read:
      is_image = _begins_like_an_image(entry.path, self._tree)
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
      kinds = shortlist(self._kind(extension, n) for extension, n in others.most_common())
      reasons.append(
        f'{count(total, "file")} that {"is not an image" if total == 1 else "are not images"} '
        f'({kinds})'
      )
    if self.hidden:
      reasons.append(f'{self.hidden:,} hidden')
    return reasons

  def _kind(self, extension: str, number: int) -> str:
    """Return in words how many files of an extension are not images."""
    kind = f'{number:,} {"." + extension if extension else "without an extension"}'
    unread = number - self._read[extension]
    return f'{kind}, {unread:,} of them not looked at' if unread > 0 else kind


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


def _identities(directory: str) -> frozenset[Hashable]:
  """Return what identifies a directory and all directories above it, also above a link to it."""
  identities = set()
  for path in map(pathlib.PurePath, (os.path.abspath(directory), os.path.realpath(directory))):
    for above in (path, *path.parents):
      with contextlib.suppress(OSError):  # no link that can be followed leads there
        status = os.stat(above)
        identities.add((status.st_dev, status.st_ino))
  return frozenset(identities)


def _begins_like_an_image(path: str, tree: FileTree) -> bool:
  try:
    return image_format(tree.first_bytes(path, _FIRST_BYTES)) is not None
  except OSError:
    return False
