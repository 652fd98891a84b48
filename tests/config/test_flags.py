import argparse
import sys

from absl import flags
import pytest

from tests.helpers.paths import ROOT
from vit_jax.config.flags import (
  define_config,
  field_value,
  given_fields,
  learning_rate_hint,
  parse_config,
)
from vit_jax.config.recipes import pretrain
from vit_jax.errors import InputError

QUICKSTART = f'--config={ROOT}/configs/quickstart.py'


def parse(*arguments):
  values = flags.FlagValues()
  define_config(values)
  return parse_config(values, ['main', *arguments]), values


def test_fields_on_the_command_line():
  c, values = parse(QUICKSTART, '--config.lr=.5', '--config.rand_augment=2,9', '--config.scan=True')
  assert (c.lr, c.rand_augment, c.scan, c.batch_size) == (0.5, (2, 9), True, 32)
  assert given_fields(values) == {'lr', 'rand_augment', 'scan'}
  assert given_fields(parse(QUICKSTART)[1]) == set()


def test_flags_set_what_a_recipe_left_out():
  """Every field that a recipe sets to None still takes a value of its type."""
  recipe = f'--config={ROOT}/configs/vit_b16.py:jft'
  assert parse(recipe)[0].clip_norm is None
  assert parse(recipe, '--config.clip_norm=2')[0].clip_norm == 2.0
  assert parse(recipe, '--config.clip_norm=0')[0].clip_norm is None


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], 'No config. Give one with --config=FILE, such as --config=configs/vit_b16.py.'),
    (['--config=none.py'], 'Config file none.py does not exist. Check the path.'),
    ([QUICKSTART, 'lr=1'], "Unknown argument 'lr=1'. Flags look like --config.batch_size=256."),
    (
      [QUICKSTART, '--config.batchsize=3'],
      "Unknown config field 'batchsize'. Did you mean 'batch_size'?",
    ),
    (
      [QUICKSTART, '--config.xyz=3'],
      "Unknown config field 'xyz'. See vit_jax/config/fields.py for all fields.",
    ),
    (
      [QUICKSTART, '--config.num_layers=x'],
      "flag --config.num_layers=x: invalid literal for int() with base 10: 'x'",
    ),
    (
      [f'--config={ROOT}/configs/vit_b16.py:laion'],
      "Unknown pretraining data 'laion'. Available: imagenet2012, imagenet21k, jft.",
    ),
  ],
)
def test_errors(arguments, message):
  with pytest.raises(InputError) as e:
    parse(*arguments)
  assert str(e.value) == message


@pytest.mark.parametrize(
  'line, message',
  [
    ('c.batchsize = 3', "Unknown config field 'batchsize'. Did you mean 'batch_size'?"),
    (
      'None.x',
      "{file} failed in line 4: AttributeError: 'NoneType' object has no attribute 'x'. Correct "
      'it.',
    ),
  ],
)
def test_a_broken_config_file(tmp_path, line, message):
  (tmp_path / 'mine.py').write_text(
    'from vit_jax.config import default_config\n'
    f'def get_config():\n  c = default_config()\n  {line}\n  return c\n'
  )
  with pytest.raises(InputError) as e:
    parse(f'--config={tmp_path}/mine.py')
  assert str(e.value) == message.format(file=tmp_path / 'mine.py')


@pytest.mark.parametrize(
  'line', ['from vit_jax.recipes import pretrain', 'from vit_jax.config.recipes import pretrain']
)
def test_config_files_of_earlier_versions_load(tmp_path, line):
  (tmp_path / 'mine.py').write_text(
    f'{line}\nfrom vit_jax.config import default_config\n'
    "def get_config(data='jft'):\n  return pretrain('ViT-B/32', data)\n"
  )
  c, _ = parse(f'--config={tmp_path}/mine.py:imagenet21k', '--config.total_steps=9')
  expected = pretrain('ViT-B/32', 'imagenet21k')
  expected.total_steps = 9
  assert c.to_dict() == expected.to_dict()


@pytest.mark.parametrize('arguments', [['--config', '~/mine.py'], ['-config=~/mine.py']])
def test_other_spellings_of_the_config_flag(tmp_path, monkeypatch, arguments):
  monkeypatch.setenv('HOME', str(tmp_path))
  path = tmp_path / 'mine.py'
  path.write_text(BEGIN + '  return c\n')
  assert parse(*arguments, '--config.lr=.5')[0].lr == 0.5
  for program, words in (
    ('x = 1\n', 'has no function get_config. See configs/vit_b16.py for an example.'),
    (BEGIN + '  1 / 0\n', 'failed in line 4: ZeroDivisionError: division by zero. Correct it.'),
  ):
    monkeypatch.delitem(sys.modules, 'config_config', raising=False)  # of an earlier config file
    path.write_text(program)
    with pytest.raises(InputError) as e:
      parse(*arguments)
    assert str(e.value) == f'{path} {words}'


def test_field_value():
  parser = argparse.ArgumentParser()
  parser.add_argument('--set', type=field_value, action='append')
  arguments = ['--set=registers=4', '--set=head=gap', '--set=shots=(1, 2)', '--set=x=a=b']
  assert parser.parse_args(arguments).set == [
    ('registers', 4),
    ('head', 'gap'),
    ('shots', (1, 2)),
    ('x', 'a=b'),
  ]


def test_a_field_without_a_value(capsys):
  parser = argparse.ArgumentParser()
  parser.add_argument('--set', type=field_value)
  with pytest.raises(SystemExit):
    parser.parse_args(['--set=registers'])
  assert "argument --set: invalid FIELD=VALUE value: 'registers'" in capsys.readouterr().err


def test_a_hint_for_another_batch_size():
  hint = lambda *flags, rates=None: learning_rate_hint(parse(QUICKSTART, *flags)[1], rates)
  assert hint('--config.batch_size=128') == (
    'Hint: --config.lr=0.001 was chosen for batches of 32 images. For 128, it would be 0.004 if '
    'scaled linearly, and 0.002 by the square root.'
  )
  assert hint('--config.batch_size=8', rates=(0.001, 0.03)) == (
    'Hint: --lrs=0.001,0.03 was chosen for batches of 32 images. For 8, it would be 0.00025,0.0075 '
    'if scaled linearly, and 0.0005,0.015 by the square root.'
  )
  assert hint('--config.batch_size=32') is hint('--config.seed=1') is None
  assert hint('--config.batch_size=128', '--config.lr=.004') is None


BEGIN = (
  'from vit_jax.config.fields import default_config\ndef get_config():\n  c = default_config()\n'
)


@pytest.mark.parametrize(
  'program, words',
  [
    (
      BEGIN + '  c.lr = 1 / 0\n',
      ' failed in line 4: ZeroDivisionError: division by zero. Correct it.',
    ),
    (
      BEGIN + '  open("/none/x")\n',
      " failed in line 4: FileNotFoundError: [Errno 2] No such file or directory: '/none/x'. "
      'Correct it.',
    ),
    (BEGIN + '  return {}["x"]\n', " failed in line 4: KeyError: 'x'. Correct it."),
    ('import nothere\n', " failed in line 1: ModuleNotFoundError: No module named 'nothere'."),
    ('\ndef get_config(:\n', ' failed in line 2: SyntaxError: invalid syntax ('),
    (BEGIN + '  c.lr = "high"\n', " failed in line 4: TypeError: Could not override field 'lr'"),
    ('x = 1\n', ' has no function get_config. See configs/vit_b16.py for an example.'),
  ],
)
def test_a_config_file_that_fails_is_named_with_the_line(tmp_path, monkeypatch, program, words):
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)  # of an earlier config file
  (tmp_path / 'mine.py').write_text(program)
  with pytest.raises(InputError) as error:
    parse(f'--config={tmp_path}/mine.py')
  assert str(error.value).startswith(f'{tmp_path}/mine.py{words}'), error.value
