import datetime
import pathlib

import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.report import sections
from vit_jax.report.summary import SavedCheckpoint


def curves(**values):
  return {
    name.replace('_', '/', 1): (np.array([50]), np.array([value])) for name, value in values.items()
  }


def test_head_shows_the_key_numbers():
  config = {'model': 'ViT-B/16', 'dataset': 'cifar10', 'image_size': 32}
  metrics = curves(eval_accuracy=0.5, eval_average_accuracy=0.625, train_loss=1.25)
  head = sections.head(pathlib.Path('runs/a&b'), config, metrics, [])
  assert '<h1>a&amp;b</h1>' in head and 'ViT-B/16 on cifar10, 32 pixels' in head
  for description, value in (
    ('evaluation accuracy', '50.00%'),
    ('evaluation accuracy, averaged parameters', '62.50%'),
    ('training loss', '1.2500'),
    ('steps', '50'),
    ('checkpoints', '0'),
  ):
    assert f'<dt>{description}</dt><dd>{value}</dd>' in head
  pretrained = sections.head(pathlib.Path('a'), config | {'pretext': 'masked_patches'}, metrics, [])
  assert '<dt>masked patches predicted</dt><dd>50.00%</dd>' in pretrained


def test_metrics_have_readable_numbers():
  table = sections.final_metrics(curves(eval_accuracy=0.125, eval_examples=1e4, train_lr=1e-5))
  for value in ('12.50%', '10,000', '1e-05'):
    assert f'<td class=number>{value}</td>' in table


def test_missing_results_are_errors_with_the_reason():
  with pytest.raises(InputError, match='^metrics.jsonl has no speeds yet. The run records them'):
    sections.throughput(curves(train_loss=1.0))
  with pytest.raises(InputError, match='^There is no checkpoint yet. The run writes one every'):
    sections.checkpoint_table([])


def test_checkpoint_table():
  saved = SavedCheckpoint(40, 1_500_000, datetime.datetime(2020, 1, 2, 3, 4))
  table = sections.checkpoint_table([saved])
  assert '<td class=number>40</td><td class=number>1.5 MB</td><td>2020-01-02 03:04</td>' in table
