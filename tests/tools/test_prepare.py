"""The prepare tool: its output, and its errors."""

import os
import subprocess
import sys

import numpy as np
import pytest

from vit_jax.data import prepare as data_prepare
from vit_jax.data.open_source import open_source
from vit_jax.errors import InputError
from vit_jax.tools import prepare


def test_digits_by_command_line(tmp_path, capsys):
  command = [sys.executable, '-m', 'vit_jax.tools.prepare', 'digits', f'--data_dir={tmp_path}']
  result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
  assert result.returncode == 0, result.stderr
  where, how = result.stdout.strip().splitlines()[-2:]
  assert where == f'digits is in {tmp_path}/digits/1.0.0: train 1,437 examples, test 360 examples'
  assert '--config.dataset=digits' in how and f'--config.data_dir={tmp_path}' in how
  assert prepare.main(['digits', f'--data_dir={tmp_path}']) == 0  # there is nothing left to do
  assert where in capsys.readouterr().out
  assert len(open_source('digits', 'test', str(tmp_path))) == 360


def test_help(capsys):
  with pytest.raises(SystemExit) as e:
    prepare.main(['--help'])
  assert e.value.code == 0
  text = capsys.readouterr().out
  assert all(f in text for f in ('--data_dir', '--file_format', '--manual_dir', '--download_dir'))


@pytest.fixture
def arrays_builder(monkeypatch):
  """Return a dataset whose images are arrays, which only TensorFlow can encode."""
  import tensorflow_datasets as tfds

  class OnlyArrays(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(shape=(4, 4, 3)),
            'label': tfds.features.ClassLabel(num_classes=2),
          }
        ),
      )

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      yield 0, {'image': np.zeros((4, 4, 3), np.uint8), 'label': 0}

  monkeypatch.setattr(data_prepare, 'builder_class', lambda name: OnlyArrays)
  return OnlyArrays


def test_a_dataset_that_only_tensorflow_can_prepare(arrays_builder, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)  # as if it were not installed
  assert prepare.main(['only_arrays', f'--data_dir={tmp_path}']) == 1
  last = capsys.readouterr().err.strip().splitlines()[-1]
  assert last == (
    'error: Only TensorFlow can prepare only_arrays, and it is not installed. '
    "Run pip install 'vit_jax[prepare]'. Training does not need it."
  )
  # Nothing is left that could be mistaken for the dataset.
  assert not os.path.exists(tmp_path / 'only_arrays' / '1.0.0')


@pytest.mark.parametrize(
  'name, message',
  [
    ('cifarr10', "^Unknown dataset 'cifarr10'. Did you mean cifar10"),
    ('jft_300m', '^JFT-300M is not public. Give the path of a folder'),
    ('./photos', '^./photos is a folder, which needs no preparation. Train on it with '),
    (
      'imagenet2012',
      '^Cannot prepare imagenet2012 yet. First download files into '
      'DIR/downloads/manual: .*ILSVRC2012_img_train.tar',
    ),
    ('eurosat/rgbb', '^Cannot prepare eurosat/rgbb: .*BuilderConfig rgbb not found'),
    ('digits:9.0.0', '^Cannot prepare digits:9.0.0: .*only: 1.0.0'),
  ],
)
def test_errors(name, message, tmp_path, capsys):
  assert prepare.main([name, f'--data_dir={tmp_path}']) == 1
  error = capsys.readouterr().err.strip().splitlines()[-1]
  with pytest.raises(InputError, match=message.replace('DIR', str(tmp_path))):
    raise InputError(error.removeprefix('error: '))


def test_an_empty_manual_dir(tmp_path, capsys):
  (tmp_path / 'by_hand').mkdir()
  assert (
    prepare.main(['imagenet2012', f'--data_dir={tmp_path}', f'--manual_dir={tmp_path}/by_hand'])
    == 1
  )
  assert f'First download files into {tmp_path}/by_hand: ' in capsys.readouterr().err


def test_where_nothing_can_be_written(tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  assert prepare.main(['digits', f'--data_dir={tmp_path}/file']) == 1
  assert 'error: Cannot prepare digits: ' in capsys.readouterr().err
