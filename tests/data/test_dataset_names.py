"""Names of datasets: own data or TFDS, and absolute paths."""

import pytest

from vit_jax.data.dataset_names import absolute_path, is_own_data, may_have_moved


@pytest.mark.parametrize(
  'name, absolute',
  [
    ('./photos', '{}/photos'),
    ('/data/photos', '/data/photos'),
    ('wds:a/x-{train,val}-*.tar', 'wds:{}/a/x-{{train,val}}-*.tar'),
    ('wds:a.tar::/b/c.tar', 'wds:{}/a.tar::/b/c.tar'),
    ('hf:./saved', 'hf:{}/saved'),
    ('hf:/data/saved,config', 'hf:/data/saved,config'),
    ('hf:timm/mini-imagenet,small', 'hf:timm/mini-imagenet,small'),
    ('wds:gs://bucket/a-*.tar', 'wds:gs://bucket/a-*.tar'),
  ],
)
def test_own_data(name, absolute, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert is_own_data(name)
  assert absolute_path(name) == absolute.format(tmp_path)


@pytest.mark.parametrize('name', ['cifar10', 'eurosat/rgb:2.0.0', 'vtab/pets', 'digits'])
def test_names_of_tfds(name):
  assert not is_own_data(name)
  assert absolute_path(name) == name


@pytest.mark.parametrize(
  'before, now, moved',
  [
    ('/a/photos', './photos', True),
    ('/a/photos', 'gs://bucket/photos', True),
    ('wds:/a/*.tar', 'wds:gs://bucket/*.tar', True),
    ('hf:/a', 'hf:/b', True),
    ('/a/labels.csv', '/b/labels.csv', True),
    ('/a/photos', '/a/labels.csv', False),
    ('wds:/a', 'hf:/a', False),
    ('wds:/a', '/a', False),
    ('cifar10', 'cifar10', False),
  ],
)
def test_what_may_have_moved(before, now, moved):
  assert may_have_moved(before, now) == may_have_moved(now, before) == moved
