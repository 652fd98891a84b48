"""The few-shot command prints what the library computes, and names what is missing."""

import json

import jax
import numpy as np

from tests.helpers.fewshot import evaluate_digits, write_photos
from tests.helpers.paths import FILES
from vit_jax import create_model, load_params
from vit_jax.evaluation.fewshot import make_represent_step
from vit_jax.transfer import fewshot


def test_the_command_line(digits_dir, tmp_path, capsys):
  arguments = [
    f'--checkpoint={FILES}/vit_token.npz',
    f'--data_dir={digits_dir}',
    '--seeds=2',
    '--shots=1,10',
  ]
  assert fewshot.main([*arguments, '--dataset=digits', '--json']) == 0
  printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [(f['dataset'], f['shots'], f['test_images']) for f in printed] == [
    ('digits', 1, 360),
    ('digits', 10, 360),
  ]
  model = create_model(
    'ViT-Ti/8', num_classes=10, image_size=32, hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2
  )
  params = load_params(FILES / 'vit_token.npz', model)
  step = jax.jit(make_represent_step(model))
  expected = evaluate_digits(
    digits_dir,
    lambda p, batch: jax.device_get(step(p, batch)),
    params,
    image_size=32,
    resize_size=None,
    shots=(1, 10),
    seeds=2,
  )
  np.testing.assert_allclose([f['accuracies'] for f in printed], expected.T, atol=2 / 360)

  folder = write_photos(tmp_path, {'ant': 12, 'bee': 12})
  assert fewshot.main([*arguments, f'--dataset={folder}', '--shots=1', '--seeds=1']) == 0
  assert capsys.readouterr().out.split()[-1] == '-'  # a single draw has no standard deviation
  assert fewshot.main([*arguments, f'--dataset={folder},digits']) == 0
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert rows[0] == ['dataset', 'shots', 'test', 'images', 'accuracy', 'std']
  assert [row[:3] for row in rows[1:]] == [
    [folder, '1', '2'],
    [folder, '10', '2'],
    ['digits', '1', '360'],
    ['digits', '10', '360'],
  ]
  accuracies = np.array(printed[1]['accuracies'])
  assert rows[4][3:] == [f'{100 * accuracies.mean():.2f}', f'{100 * accuracies.std(ddof=1):.2f}']
  assert (printed[1]['accuracy'], printed[1]['std']) == (accuracies.mean(), accuracies.std(ddof=1))


def test_the_command_line_says_what_is_missing(tmp_path, digits_dir, capsys):
  checkpoint = f'--checkpoint={FILES}/vit_token.npz'
  assert fewshot.main([checkpoint, '--dataset=digits,dtd', f'--data_dir={digits_dir}']) == 1
  out, err = capsys.readouterr()
  assert out == ''  # the error comes before any computation
  assert err == (
    f'error: The dataset dtd is not prepared in {digits_dir}. Prepare it with '
    f'`python -m vit_jax.tools.prepare dtd --data_dir={digits_dir}`.\n'
  )
  assert fewshot.main([checkpoint, '--dataset=digits', '--image_size=16,32']) == 1
  assert capsys.readouterr().err.endswith(
    'error: The model takes images of 16x32 pixels, but few-shot evaluation crops squares. '
    'Use --image_size=N.\n'
  )
  for flag, error in (
    ('--batch_size=0', '--batch_size must be at least 1, but it is 0.'),
    ('--batch_size=12', 'batch_size=12 does not divide over 8 devices. Try batch_size=16.'),
    (
      '--shots=1,500',
      "Cannot draw shots from digits, split 'train'. Class 4 (4) has 137 images, but 500",
    ),
  ):
    assert fewshot.main([checkpoint, '--dataset=digits', f'--data_dir={digits_dir}', flag]) == 1
    assert f'error: {error}' in capsys.readouterr().err
