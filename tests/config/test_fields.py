import dataclasses
import inspect

from ml_collections.config_dict import placeholder
import pytest

from vit_jax.config import fields as lib
from vit_jax.config.fields import AUGREG, default_config, mixup, model_overrides, rand_augment
from vit_jax.models.vit import VisionTransformer

FROM_THE_NAME = {
  'variant',
  'patch_size',
  'image_size',
  'num_classes',
  'resnet',
  'usage',
  'parent',
  'name',
}


def test_every_field_of_a_model_is_in_the_config():
  fields = {f.name: f.default for f in dataclasses.fields(VisionTransformer)}
  overrides = model_overrides(default_config())
  given = {f: v for f, v in overrides.items() if f in fields and f != 'dtype'}
  for field, value in given.items():  # the config and the model have the same defaults
    assert value == fields[field] or (value is None and not fields[field])
  assert not set(fields) - set(overrides) - FROM_THE_NAME


def test_a_pretext_needs_no_hidden_layer_in_the_head():
  c = default_config()
  c.representation_size = 7
  assert model_overrides(c)['representation_size'] == 7
  c.pretext = 'masked_patches'
  assert model_overrides(c)['representation_size'] is None


def test_every_field_is_described_by_whole_sentences():
  lines = inspect.getsource(lib.default_config).splitlines()
  names = set()
  for i, line in enumerate(lines):
    if line.startswith('  c.'):
      names.add(line.split()[0].removeprefix('c.'))
      above = next(lines[j] for j in range(i, 0, -1) if not lines[j].startswith('  c.'))
      assert above.startswith('  # ') and above.endswith('.'), f'{line}: {above}'
  assert names == set(default_config())


def test_not_set_is_none_and_fields_have_types():
  c = default_config()
  assert c.total_steps is c.mixup is c.init_from is c.rand_augment is None
  for field, value in dict(total_steps=5, mixup=1, init_from='x', rand_augment=[2, 9]).items():
    c[field] = value
  assert (c.total_steps, c.mixup, c.init_from, c.rand_augment) == (5, 1.0, 'x', (2, 9))
  assert type(c.mixup) is float
  with pytest.raises(TypeError):
    c.total_steps = 'many'
  c.total_steps = None
  assert c.total_steps is None


def test_configs_share_nothing():
  one, other = default_config(), default_config()
  one.num_layers = 3
  assert (one.hidden_dim, other.num_layers) == (None, None)
  assert type(placeholder(int)) is type(one.get_ref('num_layers'))


@pytest.mark.parametrize('level', AUGREG)
def test_0_turns_augmentation_off_whatever_the_level_says(level):
  c = default_config()
  c.augment = level
  assert (mixup(c), rand_augment(c)) == AUGREG[level]
  c.mixup, c.rand_augment = 0.0, (0, 0)
  assert (mixup(c), rand_augment(c)) == (0.0, (0, 0))
  c.mixup, c.rand_augment = 0.3, (1, 7)
  assert (mixup(c), rand_augment(c)) == (0.3, (1, 7))
