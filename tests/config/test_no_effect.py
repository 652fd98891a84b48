import pytest

from tests.helpers.paths import ROOT
from vit_jax.config.fields import default_config
from vit_jax.config.flags import given_fields, parse_config
from vit_jax.config.no_effect import _RULES, check_effect
from vit_jax.errors import InputError
from vit_jax.training.command_line import define_flags


def parse(file, *flags):
  values = define_flags()
  flags = [f'--config.{flag}' for flag in flags]
  c = parse_config(values, ['main', f'--config={ROOT}/configs/{file}', *flags])
  check_effect(c, given_fields(values))
  return c


@pytest.mark.parametrize(
  'file, flags, message',
  [
    (
      'quickstart.py',
      ['mesh=2,4'],
      "config.mesh=(2, 4) has no effect with config.parallel='pmap'. Leave it out, or set "
      '--config.parallel=mesh.',
    ),
    (
      'vit_b16.py',
      ['linear_end=1e-4'],
      "config.linear_end=0.0001 has no effect with config.schedule='cosine'. Leave it out, or set "
      '--config.schedule=linear.',
    ),
    (
      'vit_b16.py:jft',
      ['lr_drops=100,200'],
      "config.lr_drops=(100, 200) has no effect with config.schedule='linear'. Leave it out, or "
      'set --config.schedule=steps.',
    ),
    (
      'finetune.py',
      ['beta2=.95'],
      "config.beta2=0.95 has no effect with config.optimizer='sgd'. Leave it out, or set "
      '--config.optimizer=adam.',
    ),
    (
      'vit_b16.py',
      ['momentum=0.9'],
      "config.momentum=0.9 has no effect with config.optimizer='adam'. Leave it out, or set "
      '--config.optimizer=sgd.',
    ),
    (
      'vit_b16.py',
      ['mpp_rate=.3'],
      'config.mpp_rate=0.3 has no effect with config.pretext=None. Leave it out, or set '
      '--config.pretext=masked_patches.',
    ),
    (
      'mpp_b16.py',
      ['label_smoothing=.1'],
      "config.label_smoothing=0.1 has no effect with config.pretext='masked_patches'. Leave it "
      'out, or train on labels with --config.pretext=.',
    ),
    (
      'quickstart.py',
      ['new_head=True'],
      'config.new_head=True has no effect with config.init_from=None. Leave it out, or set '
      '--config.init_from=FILE.',
    ),
    (
      'quickstart.py',
      ['fewshot_every=50'],
      'config.fewshot_every=50 has no effect with config.fewshot=None. Leave it out, or set '
      '--config.fewshot=DATASET.',
    ),
    (
      'finetune.py',
      ['decay=all'],
      "config.decay='all' has no effect with config.weight_decay=0.0. Leave it out, or set "
      '--config.weight_decay=NUMBER.',
    ),
    (
      'quickstart.py',
      ['pos_embedding=none', 'pos_embedding_at=every'],
      "config.pos_embedding_at='every' has no effect with config.pos_embedding='none'. Leave it "
      'out, or set --config.pos_embedding=learned.',
    ),
    (
      'quickstart.py',
      ['augment_ops=Equalize'],
      "config.augment_ops=('Equalize',) has no effect with config.augment='none'. Leave it out, or "
      'set --config.rand_augment=2,9.',
    ),
    (
      'quickstart.py',
      ['augment=light2', 'rand_augment=2,9', 'mixup=.1'],
      "config.augment='light2' has no effect with config.rand_augment=(2, 9). Leave it out, or "
      'leave out --config.rand_augment or --config.mixup.',
    ),
  ],
)
def test_a_field_that_is_ignored_is_an_error(file, flags, message):
  with pytest.raises(InputError) as e:
    parse(file, *flags)
  assert str(e.value) == message


def test_fields_with_an_effect_and_those_of_a_file_are_no_error():
  assert parse('vit_h14.py', 'parallel=pmap').mesh == (0, 8)  # the file's
  parse('quickstart.py', 'parallel=mesh', 'mesh=2,4', 'augment=light2', 'mixup=.1')
  parse('quickstart.py', 'mesh=0,1', 'new_head=False', 'fewshot_every=0', 'optimizer=sgd')
  parse('augreg.py:S/16,light1', 'augment_ops=Equalize', 'label_smoothing=.1', 'beta1=.8')
  parse('mpp_b16.py', 'mpp_rate=.3', 'pretext=', 'loss=sigmoid', 'mpp_rate=0')


def test_what_a_run_was_started_with_is_only_noted():
  c = default_config()
  c.update(momentum=0.8, num_epochs=10.0, total_steps=9)
  given = {'momentum', 'num_epochs', 'total_steps'}
  assert check_effect(c, given, c.to_dict()) == [
    "config.momentum=0.8 has no effect with config.optimizer='adam'. The run being resumed was "
    'started like this, so it goes on.',
    'config.num_epochs=10 and config.total_steps=9 both set the length of the run. The run being '
    'resumed was started like this, so it goes on.',
  ]
  with pytest.raises(InputError, match='config.momentum=0.8 has no effect with .*adam.*Leave it'):
    check_effect(c, given, c.to_dict() | {'momentum': 0.9})
  with pytest.raises(InputError, match='config.num_epochs=10 and .* Give one of them.$'):
    check_effect(c, given, c.to_dict() | {'num_epochs': 300.0})


def test_every_rule_is_about_fields():
  for rule in _RULES:
    assert {*rule.fields, rule.other} <= set(default_config())
