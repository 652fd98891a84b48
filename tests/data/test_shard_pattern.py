"""Patterns of shards: braces, globs, and the splits that names and folders say."""

import pytest

from vit_jax.data.shard_pattern import expand_braces, find_shards
from vit_jax.errors import InputError


@pytest.mark.parametrize(
  'pattern, names',
  [
    ('a-{000..002}.tar', ['a-000.tar', 'a-001.tar', 'a-002.tar']),
    ('{9..11}', ['9', '10', '11']),
    ('{3..1}', ['3', '2', '1']),
    ('{a,b}{0,1}', ['a0', 'a1', 'b0', 'b1']),
    ('{t-{0..1},v-{00..01}}', ['t-0', 't-1', 'v-00', 'v-01']),
    ('x{a}{y', ['x{a}{y']),
    ('', ['']),
  ],
)
def test_braces(pattern, names):
  assert expand_braces(pattern) == names


def test_a_range_that_is_too_long():
  with pytest.raises(InputError) as e:
    expand_braces('a-{0..99999999}.tar')
  assert str(e.value) == (
    'The range 0..99999999 in a-{0..99999999}.tar is too long. Check its numbers.'
  )


def found(folder, pattern='*.tar'):
  splits = find_shards(f'{folder}/{pattern}' if pattern else str(folder))
  return {
    split: [path.removeprefix(f'{folder}/') for path in paths] for split, paths in splits.items()
  }


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def test_names_say_the_split(tmp_path):
  touch(tmp_path, 'in-train-0.tar', 'in-train-1.tar', 'in-validation-0.tar', 'x_val00.tar')
  touch(tmp_path, 'training.tar', 'latest-3.tar', 'notes.txt')
  everything = {
    'train': ['in-train-0.tar', 'in-train-1.tar', 'latest-3.tar', 'training.tar'],
    'validation': ['in-validation-0.tar'],
    'val': ['x_val00.tar'],
  }
  assert found(tmp_path) == found(tmp_path, '') == everything
  few = {'train': ['in-train-1.tar'], 'validation': ['in-validation-0.tar']}
  assert found(tmp_path, 'in-{train-1,validation-{0..0}}.tar') == few
  assert found(tmp_path, f'in-train-{{1..1}}.tar::{tmp_path}/in-v*.tar') == few


def test_folders_say_the_split(tmp_path):
  touch(tmp_path / 'test', 'train/0.tar', 'train/1.tar', 'val/0.tar')
  both = {'train': ['train/0.tar', 'train/1.tar'], 'val': ['val/0.tar']}
  assert found(tmp_path / 'test', '') == both
  assert found(tmp_path / 'test', '*/*.tar') == both
  assert found(tmp_path / 'test', '{train,val}/{0..0}.tar') == {
    'train': ['train/0.tar'],
    'val': ['val/0.tar'],
  }
  # The folder above all shards says nothing.
  assert found(tmp_path / 'test' / 'val', '') == {'train': ['0.tar']}
  assert found(tmp_path / 'test' / 'val') == {'train': ['0.tar']}


def test_words_in_braces_name_the_splits(tmp_path, monkeypatch):
  touch(tmp_path, 'a-train-0.tar', 'a-holdout-0.tar')
  assert found(tmp_path, 'a-{train,holdout}-*.tar') == {
    'train': ['a-train-0.tar'],
    'holdout': ['a-holdout-0.tar'],
  }
  monkeypatch.setenv('HOME', str(tmp_path))
  assert find_shards('~/a-tr*.tar') == {'train': [f'{tmp_path}/a-train-0.tar']}


@pytest.mark.parametrize('dataset', ['wds:', 'wds:::/a.tar'])
def test_an_empty_pattern(dataset):
  with pytest.raises(InputError) as e:
    find_shards(dataset.removeprefix('wds:'))
  assert str(e.value) == (
    f'{dataset} has an empty pattern. Give a directory or a pattern of .tar files, such as '
    'wds:DIR/*.tar.'
  )


def test_no_shards(tmp_path):
  for pattern in (tmp_path, f'{tmp_path}/*.tar', f'{tmp_path}/a/b-{{x,y}}-*.tar'):
    with pytest.raises(InputError) as e:
      find_shards(str(pattern))
    assert str(e.value) == (
      f'There are no shards at {pattern}. Check the path. The pattern must match .tar files.'
    )
  touch(tmp_path, 'a-0.tar', 'a-2.tar')
  pattern = f'{tmp_path}/a-{{0..2}}.tar'
  with pytest.raises(InputError) as e:
    find_shards(pattern)
  assert str(e.value) == (
    f'There is no shard {tmp_path}/a-1.tar, which {pattern} names. Check the path.'
  )
