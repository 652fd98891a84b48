"""Look up the names of ImageNet's classes, in the order of the published heads.

The published heads sort the classes by WordNet id. A name is the first lemma that WordNet has for a
class, with further lemmas where two classes would otherwise have the same name. 1,150 classes of
ImageNet-21k share all their lemmas with another class, so their names end in their id:
'game (n02152991)'.
"""

from collections.abc import Sequence
from importlib import resources
import re

# The original ViT and BiT checkpoints have a head of 21,843 classes: the 21,841 classes of the Fall
# 2011 release, and two without images, 9205 (n03931044) and 15027 (n09859684).
_FILES = {1000: 'imagenet1k.txt', 21843: 'imagenet21k.txt'}


def imagenet_names(num_classes: int) -> list[str] | None:
  """Return the names of ImageNet-1k (1000 classes) or ImageNet-21k (21,843), or None."""
  if num_classes not in _FILES:
    return None
  text = resources.files('vit_jax.data').joinpath(_FILES[num_classes]).read_text('utf-8')
  return text.splitlines()


def readable_names(names: Sequence[str], num_labels: int, num_classes: int) -> list[str]:
  """Return a name for each class of a model, which may have more classes than its dataset.

  Args:
    names: names of the dataset's classes. If they are sorted WordNet ids, or if the list is empty,
      ImageNet's names replace them, provided that `num_labels` is that of an ImageNet.
    num_labels: number of classes of the dataset.
    num_classes: number of classes of the model. Those without a name become 'class 17'.
  """
  if all(re.fullmatch(r'n\d{8}', name) for name in names) and list(names) == sorted(names):
    names = imagenet_names(num_labels) or names
  return [*names, *(f'class {i}' for i in range(len(names), num_classes))]
