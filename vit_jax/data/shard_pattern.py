"""Find the shards of a dataset by a pattern, such as 'PATH/imagenet1k-{train,validation}-*.tar'."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase as fnmatch
import glob
import itertools
import os
import re

from vit_jax.data import remote, storage
from vit_jax.errors import InputError
from vit_jax.files import is_remote, user_path

_SPLIT = re.compile(
  r'(?:^|[-_.])(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev|eval(?:uation)?)(?=[-_.]|\d|$)',
  re.IGNORECASE,
)
_WORDS = re.compile(r'\{([A-Za-z]\w*(?:,[A-Za-z]\w*)*)\}')
_RANGE = re.compile(r'(\d+)\.\.(\d+)')
_MOST = 1_000_000  # shards that a range of numbers may name


def find_shards(pattern: str) -> dict[str, list[str]]:
  """Return {split: paths of its shards, in the order of the pattern}.

  A shard belongs to the split that its name or its folder says, such as train or validation. A
  group of words in braces, such as {train,holdout}, names the splits itself. All other shards
  belong to the split 'train'. 'training' is called train, too.

  Args:
    pattern: a directory, or paths with '*', '?' and '[...]' as in a shell, and with braces:
      '{000000..001023}' counts, '{a,b}' lists. Several patterns are joined by '::'. Of a directory,
      all .tar files in it and in the directories in it count.

  Raises:
    InputError: a pattern is empty, no shard is found, or one that the pattern names by its number
      does not exist.
  """
  splits: dict[str, list[str]] = {}
  seen: set[str] = set()
  for part in pattern.split('::'):
    if not part:
      raise InputError(
        f'wds:{pattern} has an empty pattern. Give a directory or a pattern of .tar files, such as '
        'wds:DIR/*.tar.'
      )
    for split, path in _expand(part):
      if path not in seen:
        seen.add(path)
        splits.setdefault(split, []).append(path)
  if not splits:
    raise InputError(
      f'There are no shards at {pattern}. Check the path. The pattern must match .tar files.'
    )
  return splits


def _expand(pattern: str) -> Iterator[tuple[str, str]]:
  """Yield (split, path) of the shards that one pattern names."""
  pattern = os.fspath(user_path(pattern)) if pattern.startswith('~') else pattern
  if is_remote(pattern) and not pattern.endswith('.tar') or os.path.isdir(pattern):
    folder = pattern.rstrip('/')
    for path in _tars(folder) + [path for name in _folders(folder) for path in _tars(name)]:
      yield _split_of(*os.path.split(path.removeprefix(folder + '/'))), path
    return
  group = _WORDS.search(pattern)
  for word in group[1].split(',') if group else ['']:
    one = pattern[: group.start()] + word + pattern[group.end() :] if group else pattern
    names = expand_braces(one)
    paths = [path for n in names for path in (_glob(n) if glob.has_magic(n) else [n])]
    several = len(set(map(os.path.dirname, paths))) > 1
    for path in paths:
      if not is_remote(path) and not os.path.exists(path):
        raise InputError(f'There is no shard {path}, which {pattern} names. Check the path.')
      folder, name = os.path.split(path)
      yield _usual(word) or _split_of(folder if several else '', name), path


def _glob(pattern: str) -> list[str]:
  """Return the paths that a pattern with '*', '?' or '[...]' matches, sorted."""
  if not is_remote(pattern):
    return sorted(glob.glob(pattern))
  folder, _, name = pattern.rpartition('/')
  if glob.has_magic(folder):
    raise InputError(
      f'In the remote pattern {pattern}, only the names of files may hold *, ? or [...]. Join '
      "patterns for several folders with '::'."
    )
  return [f'{folder}/{found}' for found in sorted(storage.names(folder)) if fnmatch(found, name)]


def _tars(folder: str) -> list[str]:
  return [f'{folder}/{name}' for name in sorted(storage.names(folder)) if name.endswith('.tar')]


def _folders(folder: str) -> list[str]:
  if is_remote(folder):
    listing = remote.list_directory(folder)
    return [f'{folder}/{name}' for name, entry in sorted(listing.items()) if entry.is_directory]
  return [
    entry.path for entry in sorted(os.scandir(folder), key=lambda e: e.name) if entry.is_dir()
  ]


def expand_braces(pattern: str) -> list[str]:
  """Return the texts that a pattern with braces stands for, as in a shell.

  'a-{1,{05..07}}' gives a-1, a-05, a-06 and a-07. Braces without a comma or a range stay.

  Raises:
    InputError: a range has too many numbers.
  """
  for start, end in _groups(pattern):
    parts = _split_commas(pattern[start + 1 : end])
    if match := _RANGE.fullmatch(pattern[start + 1 : end]):
      first, last = int(match[1]), int(match[2])
      if abs(last - first) >= _MOST:
        raise InputError(f'The range {match[0]} in {pattern} is too long. Check its numbers.')
      step = 1 if first <= last else -1
      width = max(map(len, match.groups())) if match[0][0] == '0' or '..0' in match[0] else 0
      parts = [f'{i:0{width}}' for i in range(first, last + step, step)]
    if len(parts) > 1 or match:
      rests = expand_braces(pattern[end + 1 :])
      heads = itertools.chain.from_iterable(map(expand_braces, parts))
      return [pattern[:start] + head + rest for head in heads for rest in rests]
  return [pattern]


def _groups(pattern: str) -> Iterator[tuple[int, int]]:
  """Yield the positions of the outermost braces."""
  depth = start = 0
  for i, c in enumerate(pattern):
    if c == '{':
      start = start if depth else i
      depth += 1
    elif c == '}' and depth:
      depth -= 1
      if not depth:
        yield start, i


def _split_commas(text: str) -> list[str]:
  """Split at the commas that are not inside braces."""
  parts, depth = [''], 0
  for c in text:
    depth += (c == '{') - (c == '}')
    if c == ',' and not depth:
      parts.append('')
    else:
      parts[-1] += c
  return parts


def _split_of(folder: str, name: str) -> str:
  """Return the split that the name of a shard or its folder says, or 'train'."""
  words = _SPLIT.findall(name) or _SPLIT.findall(os.path.basename(folder))
  return _usual(words[-1].lower()) if words else 'train'


def _usual(split: str) -> str:
  return 'train' if split.lower() == 'training' else split
