import pytest

from tests.helpers.configs import load
from tests.helpers.paths import ROOT
from vit_jax.config.fields import default_config
from vit_jax.config.flags import parse_config
from vit_jax.config.length import count_steps, count_warmup_steps, length_warnings
from vit_jax.config.no_effect import check_effect
from vit_jax.errors import InputError
from vit_jax.training.command_line import define_flags


def parse(file, *flags):
  return parse_config(define_flags(), ['main', f'--config={ROOT}/configs/{file}', *flags])


@pytest.mark.parametrize('file', ['finetune.py:ViT-B/16,cifar10', 'mpp_b16.py'])
def test_epochs_on_the_command_line_replace_the_steps_of_a_recipe(file):
  assert parse(file).total_steps
  c = parse(file, '--config.num_epochs=10', '--config.batch_size=100')
  assert c.total_steps is None and count_steps(c, 485) == 48
  c = parse('quickstart.py', '--config.total_steps=9')
  assert count_steps(c, 1437) == 9


def test_two_lengths_on_the_command_line_are_an_error():
  c = parse('quickstart.py', '--config.num_epochs=10', '--config.total_steps=9')
  with pytest.raises(InputError) as e:
    check_effect(c, {'num_epochs', 'total_steps'})
  assert str(e.value) == (
    'config.num_epochs=10 and config.total_steps=9 both set the length of the run. '
    'Give one of them.'
  )
  check_effect(c, {'total_steps'})
  assert parse('mpp_b16.py', '--config.num_epochs=2', '--config.total_steps=0').num_epochs == 2


def test_two_lengths_in_a_config_file_are_warned_of(tmp_path, caplog):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from vit_jax.config.recipes import finetune\ndef get_config():\n'
    "  c = finetune('ViT-B/16', 'cifar10')\n  c.num_epochs = 10.\n  return c\n"
  )
  parse_config(define_flags(), ['main', f'--config={path}'])
  assert caplog.messages == [
    'The config file sets config.num_epochs=10 and config.total_steps=10000. '
    'The number of epochs is not used.'
  ]
  caplog.clear()
  parse_config(define_flags(), ['main', f'--config={path}', '--config.total_steps=7'])
  parse('finetune.py')
  assert not caplog.messages


@pytest.mark.parametrize(
  'images, steps, warmup',
  [(20, 50, 10), (485, 95, 19), (3680, 719, 143), (12_800, 2500, 500), (10**6, 2500, 500)],
)
def test_a_folder_has_a_length_that_fits_it(tmp_path, monkeypatch, images, steps, warmup):
  (tmp_path / 'photos' / 'train').mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  c = load('finetune', 'ViT-B/16,photos')
  assert (c.total_steps, c.num_epochs, c.batch_size) == (None, None, 512)
  assert count_steps(c, images) == steps and count_warmup_steps(c, steps) == warmup
  assert not [x for x in length_warnings(c, images) if 'batch_size' not in x]


def warnings(images, **fields):
  c = default_config()
  c.update(fields)
  return length_warnings(c, images)


def test_what_does_not_fit_the_length_is_said():
  assert warnings(1_281_167) == []
  assert warnings(60_000, num_epochs=30.0, batch_size=4096) == [
    'config.warmup_steps=10000 is not less than the 439 steps of the run, so the learning rate '
    'reaches only 4.4% of config.lr=0.003. Set --config.warmup_steps=87, or train longer.'
  ]
  assert warnings(485, batch_size=512, total_steps=100, warmup_steps=10) == [
    'config.batch_size=512 is larger than the 485 training images, so a batch contains images more '
    'than once. Set --config.batch_size=128.'
  ]
  assert warnings(485, batch_size=128, total_steps=10_000, warmup_steps=500) == [
    '10,000 steps of 128 images are 2,639 epochs of the 485 training images. For a shorter run, '
    'set --config.num_epochs=100.'
  ]
  late = dict(batch_size=8, warmup_steps=0, total_steps=300, profile_steps=(400, 401))
  assert warnings(485, schedule='steps', lr_drops=(200, 300, 400), **late) == [
    'The learning rate never drops at the steps 300, 400 of config.lr_drops, because the run has '
    '300 steps. Set --config.lr_drops.',
    'config.profile_steps=(400, 401) traces nothing, because the run has 300 steps.',
  ]
