"""Few-shot evaluations on small datasets, by features that need no model."""

import numpy as np

from tests.helpers.images import encode, smooth_image
from vit_jax.data.batch import ReadOptions
from vit_jax.evaluation.fewshot import FewShot, FewShotProtocol


def as_pixels(params, batch):
  """Represent images by their pixels."""
  del params
  features = batch['image'].astype(np.float32).reshape(len(batch['image']), -1)
  return {k: v for k, v in batch.items() if k != 'image'} | {'features': features}


def open_fewshot(
  dataset, represent, *, batch_size, max_bad_records=0, data_dir=None, image_size=8, **protocol
):
  return FewShot(
    dataset,
    represent,
    FewShotProtocol(image_size, **protocol),
    ReadOptions(batch_size, max_bad_records=max_bad_records),
    data_dir=data_dir,
  )


def evaluate_digits(digits_dir, represent=as_pixels, params=None, **options):
  """Evaluate on digits. Return accuracies (seeds, numbers of shots)."""
  options = dict(resize_size=8, batch_size=100) | options
  evaluation = open_fewshot('digits', represent, data_dir=digits_dir, **options)
  correct, examples = evaluation.count_correct(params)
  assert examples == 360
  return correct / examples


def write_photos(root, counts, val=True):
  """Write a folder with `counts` images of each class in train, and one of each in val."""
  for split, sizes in (('train', counts), ('val', dict.fromkeys(counts, 1) if val else {})):
    for name, count in sizes.items():
      (root / split / name).mkdir(parents=True)
      for i in range(count):
        (root / split / name / f'{i}.png').write_bytes(encode(smooth_image(9, 12, seed=i), 'PNG'))
  return str(root)
