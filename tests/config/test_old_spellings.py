import json

from absl import flags
import pytest

from tests.helpers.paths import ROOT
from vit_jax.config.fields import default_config, mixup, rand_augment
from vit_jax.config.flags import define_config, parse_config
from vit_jax.config.old_spellings import OLD_SPELLINGS, later_fields, normalize, upgrade

# The default of each type before "not set" became None: 0, '' or ().
BY_TYPE = {int: 0, float: 0.0, str: '', tuple: ()}
OTHERS = {'trained_blocks': -1, 'rand_augment': (0, 0), 'profile_steps': (0, 0), 'clip_norm': 0.0}


def test_the_table_has_every_field_that_can_be_none():
  c = default_config()
  can_be_none = {field for field, value in c.items() if value is None} | {'clip_norm'}
  assert set(OLD_SPELLINGS) == can_be_none
  for field, old in OLD_SPELLINGS.items():
    assert old == OTHERS.get(field, BY_TYPE[c.get_type(field)])


@pytest.mark.parametrize('field', OLD_SPELLINGS)
def test_an_old_config_json(field):
  old = {'lr': 0.1, 'keep_every': 0, field: json.loads(json.dumps(OLD_SPELLINGS[field]))}
  assert upgrade(old) == {'lr': 0.1, 'keep_every': 0, field: None}


def test_a_new_config_json_means_what_it_says():
  new = {'mixup': 0.0, 'rand_augment': [0, 0], 'trained_blocks': 0, 'total_steps': None}
  assert upgrade(new) == new


def parse(field, text):
  values = flags.FlagValues()
  define_config(values)
  argv = ['main', f'--config={ROOT}/configs/augreg.py:S/16,strong1', f'--config.{field}={text}']
  return parse_config(values, argv)


@pytest.mark.parametrize('field', sorted(set(OLD_SPELLINGS) - {'mixup', 'rand_augment'}))
def test_old_spellings_on_the_command_line(field):
  old = OLD_SPELLINGS[field]
  assert parse(field, old)[field] is None
  c = default_config()
  c[field] = old  # as in a config file
  normalize(c)
  assert c[field] is None


def test_0_turns_mixup_and_rand_augment_off():
  assert parse('mixup', 0).mixup == 0.0 and mixup(parse('mixup', 0)) == 0.0
  c = parse('rand_augment', '0,0')
  assert rand_augment(c) == (0, 0) and mixup(c) == 0.5  # strong1's


def test_0_blocks_are_the_head_alone():
  assert parse('trained_blocks', 0).trained_blocks == 0


def test_other_values_stay():
  c = default_config()
  c.update(dict(num_layers=1, init_from='x', profile_steps=(1, 2), average=0.9))
  before = c.to_dict()
  normalize(c)
  assert c.to_dict() == before


def test_a_run_keeps_the_images_on_which_it_was_evaluated():
  assert later_fields({'preset': 'bit'}) == {}
  assert later_fields({'preset': 'inception'}) == later_fields({}) == {'eval_filter': 'bilinear'}
  old = {'preset': 'inception', 'fewshot': 'cifar100'}
  assert later_fields(old) == {'eval_filter': 'bilinear', 'fewshot_preset': 'inception'}
  assert later_fields(old | {'eval_filter': None}) == {}  # a newer run
