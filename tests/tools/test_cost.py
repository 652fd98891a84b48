"""Tests of the command `python -m vit_jax.tools.cost`."""

import json

import pytest

from vit_jax.tools import cost


def test_prints_a_config(capsys, tmp_path):
  path = tmp_path / 'tiny.py'
  path.write_text(
    'from vit_jax.config.fields import default_config\n\n\ndef get_config():\n'
    '  c = default_config()\n  c.model, c.image_size, c.num_layers = "ViT-Ti/16", 32, 1'
    '\n  c.num_epochs = 2.\n  return c\n'
  )
  argv = [f'--config={path}', '--config.batch_size=256', '--device=TPU v3', '--device=H200']
  assert cost.main(argv) == 0
  text = capsys.readouterr().out
  assert '10,009 steps of 256 images (2 epochs of 1,281,167 images)' in text
  assert max(map(len, text.splitlines()[1:])) <= 100
  assert 'TPU v3' in text and 'H200' in text and 'A100' not in text
  assert cost.main([*argv, '--json', '--mfu=.5']) == 0
  values = json.loads(capsys.readouterr().out)
  assert values['mfu'] == 0.5 and list(values['device_days']) == ['TPU v3', 'H200']


@pytest.mark.slow
def test_prints_the_papers_models(capsys):
  assert cost.main([]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 100
  row = next(x for x in lines if x.startswith('ViT-H/14       14'))
  assert '4,262' in row and '2,500' in row and '32.1%' in row
  mfus = [float(x.split()[-1].rstrip('%')) for x in lines if x.endswith('%')]
  assert len(mfus) == 4 and all(20 < x < 50 for x in mfus)


@pytest.mark.parametrize(
  'argv, words',
  [
    (['--device=TPU v9'], "error: Unknown device 'TPU v9'. Did you mean 'TPU v"),
    (['--mfu=0'], 'error: --mfu=0 is out of range. '),
    (['--mfu=1.5'], 'error: --mfu=1.5 is out of range. '),
    (['--mfu=nan'], 'error: --mfu=nan is out of range. '),
    (['--config=nowhere.py'], 'error: Config file nowhere.py does not exist. Check the path.'),
    (
      ['--config=configs/vit_b16.py:mnist'],
      "error: Unknown pretraining data 'mnist'. Available: imagenet2012, imagenet21k, jft.",
    ),
    (
      ['--config=configs/vit_b16.py', '--config.bach_size=2'],
      "error: Unknown config field 'bach_size'. Did you mean 'batch_size'?",
    ),
    (
      ['--num_images=5'],
      'error: --num_images needs a --config. It counts the images of its dataset.',
    ),
    (['vit_b16'], "error: Unknown argument 'vit_b16'. Flags look like --mfu=.4."),
    (['--mfoo=1'], 'error: Unknown command line flag'),
  ],
)
def test_errors_are_one_sentence(argv, words, capsys):
  assert cost.main(argv) == 1
  captured = capsys.readouterr()
  assert words in captured.err and captured.err.count('\n') == 1 and not captured.out
