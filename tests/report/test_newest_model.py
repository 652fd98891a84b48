import json
import shutil

import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.report import newest_model
from vit_jax.report.newest_model import load_newest_model


def test_predictions_of_the_evaluation_split(trained):
  model = load_newest_model(trained, num_images=5, batch_size=2)
  assert model.split == 'digits, test' and list(model.class_names) == [str(i) for i in range(10)]
  assert [image.shape for image in model.images] == [(16, 16, 3)] * 5
  examples = model.examples
  np.testing.assert_array_equal(examples.correct, examples.labels == examples.predicted)
  np.testing.assert_array_equal(examples.images, np.stack(model.images))


def test_without_an_evaluation_split_there_are_no_examples(trained, tmp_path):
  workdir = shutil.copytree(trained, tmp_path / 'run')
  config = json.loads((workdir / 'config.json').read_text())
  (workdir / 'config.json').write_text(json.dumps(config | {'eval_split': 'none'}))
  model = load_newest_model(workdir, num_images=5, batch_size=2)
  assert isinstance(model.examples, InputError)
  assert 'eval_split=none' in str(model.examples) and model.images == []


def test_classes_that_were_renamed_have_a_remedy_that_a_report_has(trained, monkeypatch):
  open_split = newest_model.open_eval_split

  def renamed(config):
    split = open_split(config)
    split.source.class_names = [f'digit {i}' for i in range(10)]
    return split

  monkeypatch.setattr(newest_model, 'open_eval_split', renamed)
  loaded, run = newest_model.load_checkpoint(str(trained))
  loaded = loaded._replace(class_names=[f'number {i}' for i in range(10)])
  monkeypatch.setattr(newest_model, 'load_checkpoint', lambda workdir: (loaded, run))
  model = load_newest_model(trained, num_images=5, batch_size=2)
  assert str(model.examples) == (
    "The model of this run does not have these classes of digits: 'digit 0'; 'digit 1'; 'digit 2' "
    "and 7 more. Its classes are 'number 0'; 'number 1'; 'number 2' and 7 more. "
    'Give the classes the names that they had when the model was trained.'
  )


def test_no_checkpoint(tmp_path):
  with pytest.raises(InputError):
    load_newest_model(tmp_path, num_images=5, batch_size=2)
