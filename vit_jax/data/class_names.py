"""The names of ImageNet's classes, in the order of the published heads (sorted WordNet ids).

The names are WordNet's first lemma of a class, and further ones where that alone would name
two classes. 1,150 classes of ImageNet-21k share all their lemmas with another; they end in
their id: 'game (n02152991)'.
"""

from collections.abc import Sequence
from importlib import resources
import re

# 21,843 is the head of the original ViT and BiT checkpoints: the 21,841 classes of the Fall 2011
# release and, at 9205 and 15027, two without images (n03931044 and n09859684).
_FILES = {1000: 'imagenet1k.txt', 21843: 'imagenet21k.txt'}


def imagenet_names(num_classes: int) -> list[str] | None:
  """The names of ImageNet-1k (1000 classes) or ImageNet-21k (21,843); None for other numbers."""
  if num_classes not in _FILES:
    return None
  text = resources.files('vit_jax.data').joinpath(_FILES[num_classes]).read_text('utf-8')
  return text.splitlines()


def readable_names(names: Sequence[str], num_labels: int, num_classes: int) -> list[str]:
  """Names of all `num_classes` of a model, which may have more than its data set.

  Args:
    names: of the data set's classes; WordNet ids in order, or none at all, become ImageNet's names
      where these are known.
    num_labels: how many classes the data set has.
  """
  if all(re.fullmatch(r'n\d{8}', name) for name in names) and list(names) == sorted(names):
    names = imagenet_names(num_labels) or names
  return [*names, *(f'class {i}' for i in range(len(names), num_classes))]
