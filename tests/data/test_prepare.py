"""Prepare datasets from Python. tests/tools/test_prepare.py tests the command and its errors."""

import pwd

import pytest

from vit_jax.data.prepare import (
  builder_class,
  default_data_dir,
  find_data_dir,
  manual_download,
  prepare,
)
from vit_jax.data.tfds_directory import find_directory
from vit_jax.errors import InputError


def test_digits_are_prepared_once(tmp_path):
  directory = prepare('digits', data_dir=str(tmp_path))
  assert directory == str(tmp_path / 'digits' / '1.0.0')
  written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
  assert prepare('digits', data_dir=str(tmp_path)) == directory
  assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == written
  assert find_directory('digits', str(tmp_path)) == directory


@pytest.mark.parametrize(
  'name, written',
  [
    ('wds:/a/x-{train,val}-*.tar', "'wds:/a/x-{train,val}-*.tar'"),
    ('hf:timm/mini-imagenet', 'hf:timm/mini-imagenet'),
    ('a/labels.csv', 'a/labels.csv'),
  ],
)
def test_own_data_needs_no_preparation(name, written):
  with pytest.raises(InputError) as e:
    prepare(name)
  assert str(e.value) == (
    f'{name} needs no preparation. Train on it with --config.dataset={written}.'
  )


def test_builder_classes():
  assert builder_class('cifar10').name == 'cifar10'
  assert builder_class('digits') is builder_class('digits')  # TFDS registers it once
  with pytest.raises(InputError, match="^Unknown dataset 'xyzzy'. See https://www.tensorflow.org"):
    builder_class('xyzzy')


def test_files_that_the_user_must_download():
  assert manual_download('cifar10', '/files') is None
  text = manual_download('imagenet2012', '/files')
  assert text.startswith('First download files into /files: ') and text.endswith('.')
  assert 'ILSVRC2012_img_train.tar' in text


def test_the_data_dir_without_a_home(monkeypatch):
  def unknown(uid):
    raise KeyError(uid)

  monkeypatch.delenv('HOME')
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  monkeypatch.setattr(pwd, 'getpwuid', unknown)
  with pytest.raises(InputError) as e:
    find_data_dir(None)
  assert str(e.value) == (
    'The directory of datasets is unknown, because this user has no home directory. Set data_dir '
    'or the environment variable TFDS_DATA_DIR.'
  )
  with pytest.raises(InputError, match='^Cannot find ~/x: the home directory of this user is'):
    find_data_dir('~/x')
  assert find_data_dir('/data') == '/data'


def test_default_data_dir(monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', '/data')
  assert default_data_dir() == '/data'
  monkeypatch.delenv('TFDS_DATA_DIR')
  assert default_data_dir() == '~/tensorflow_datasets'
