from ml_collections import ConfigDict
import pytest

from vit_jax.config.checks import check_config, check_overrides
from vit_jax.config.fields import default_config
from vit_jax.errors import InputError


@pytest.mark.parametrize(
  'change, message',
  [
    ({'loss': 'hinge'}, "Unknown config.loss 'hinge'. Available: softmax, sigmoid."),
    (
      {'augment': 'light'},
      "Unknown config.augment 'light'. Did you mean 'light2'? "
      'Available: none, light1, light2, medium1, medium2, strong1, strong2.',
    ),
    ({'pretext': 'x'}, "Unknown config.pretext 'x'. Available: None, masked_patches."),
    (
      {'rand_augment': (2,)},
      'config.rand_augment=(2,) must be two numbers: how many operations to apply to an image, '
      'and their magnitude.',
    ),
    ({'batch_size': 0}, 'config.batch_size must be at least 1, got 0.'),
    ({'lr': -1.0}, 'config.lr must not be negative, got -1.0.'),
    ({'clip_norm': -1.0}, 'config.clip_norm must not be negative, got -1.0.'),
    ({'trained_blocks': -2}, 'config.trained_blocks must not be negative, got -2.'),
    (
      {'total_steps': 0, 'num_epochs': 0.0},
      'config.num_epochs is 0 and config.total_steps is not set. Set one of them.',
    ),
    ({'keep_every': 1500}, 'config.keep_every=1500 must be a multiple of config.save_every=1000.'),
    ({'label_smoothing': 1.0}, 'config.label_smoothing must be in [0, 1), got 1.0.'),
    ({'average': 1.0}, 'config.average must be in [0, 1), got 1.0.'),
    ({'beta2': 1.0}, 'config.beta2 must be in [0, 1), got 1.0.'),
    ({'lr': float('nan')}, 'config.lr must be a finite number, got nan.'),
    ({'weight_decay': float('inf')}, 'config.weight_decay must be a finite number, got inf.'),
    ({'seed': -1}, 'config.seed must not be negative, got -1.'),
    ({'seed': 2**32}, 'config.seed must be less than 2**32 = 4294967296, got 4294967296.'),
    (
      {'fewshot_shots': (5, 0)},
      'config.fewshot_shots=(5, 0) must be one or more numbers, each at least 1.',
    ),
    (
      {'profile_steps': (5, 3)},
      'config.profile_steps=(5, 3) must be two numbers: the first and the last step to trace.',
    ),
    (
      {'profile_steps': (5,)},
      'config.profile_steps=(5,) must be two numbers: the first and the last step to trace.',
    ),
  ],
)
def test_bad_values(change, message):
  c = default_config()
  c.update(change)
  with pytest.raises(InputError) as e:
    check_config(c)
  assert str(e.value) == message


def test_defaults_are_good():
  c = default_config()
  check_config(c)
  assert c == default_config()


def test_old_spellings_are_replaced_before_the_checks():
  c = default_config()
  c.update({'trained_blocks': -1, 'pretext': '', 'num_layers': 0})
  check_config(c)
  assert c.trained_blocks is c.pretext is c.num_layers is None


def test_unknown_and_mistyped_fields():
  c = default_config()
  with pytest.raises(AttributeError):
    c.batchsize = 3
  with pytest.raises(TypeError):
    c.batch_size = 'many'
  for name, hint in (
    ('batchsize', "Did you mean 'batch_size'?"),
    ('xyz', 'See vit_jax/config/fields.py for all fields.'),
  ):
    with pytest.raises(InputError) as e:
      check_config(ConfigDict({**default_config(), name: 3}))
    assert str(e.value) == f'Unknown config field {name!r}. {hint}'


def test_overrides():
  check_overrides({'num_layers': 3, 'legs': 4})  # create_model names unknown fields
  with pytest.raises(InputError, match='^--override=num_layers=3.5 has a value of the wrong type.'):
    check_overrides({'num_layers': 3.5})
  with pytest.raises(InputError, match='^config.num_layers must not be negative, got -1.$'):
    check_overrides({'num_layers': -1})
