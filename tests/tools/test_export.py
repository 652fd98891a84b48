"""The export tool writes what the library exports, describes it, and says how to run it."""

import json

import jax
import numpy as np
import pytest

from tests.helpers.exported import expected, random_images
from tests.helpers.paths import FILES
from vit_jax import create_model, load_params
from vit_jax.inference.export import load_exported
from vit_jax.tools import export as tool

SIZES = dict(hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2)
CHECKPOINT = FILES / 'vit_token.npz'


def run_tool(tmp_path, *args):
  out = tmp_path / 'vit.stablehlo'
  code = tool.main([f'--checkpoint={CHECKPOINT}', f'--out={out}', *args])
  return code, out


def test_command_line(tmp_path, capsys):
  (tmp_path / 'names').write_text('\n'.join(f'digit {i}' for i in range(10)))
  code, out = run_tool(
    tmp_path, f'--labels={tmp_path}/names', '--loss=sigmoid', '--platforms=cpu,cuda'
  )
  assert code == 0 and capsys.readouterr().out.startswith(f'Wrote {out}. Run it on images')
  model = create_model('ViT-Ti/8', num_classes=10, image_size=32, **SIZES)
  images = random_images(model, 2)
  np.testing.assert_array_equal(
    load_exported(out)(images), expected(model, load_params(CHECKPOINT, model), images, 'sigmoid')
  )
  assert json.loads((tmp_path / 'vit.stablehlo.json').read_text()) == {
    'model': 'ViT-Ti/8',
    'image_size': [32, 32],
    'dtype': 'float32',
    'loss': 'sigmoid',
    'input': {
      'name': 'images',
      'shape': ['b', 32, 32, 3],
      'dtype': 'uint8',
      'values': 'RGB, 0 to 255',
    },
    'output': {'name': 'probabilities', 'shape': ['b', 10], 'dtype': 'float32'},
    'weights': None,
    'jax_version': jax.__version__,
    'platforms': ['cpu', 'cuda'],
    'class_names': [f'digit {i}' for i in range(10)],
  }
  assert {p.name for p in tmp_path.iterdir()} == {'names', 'vit.stablehlo', 'vit.stablehlo.json'}


def test_command_line_other_size_and_dtype(tmp_path, capsys):
  code, out = run_tool(tmp_path, '--image_size=64', '--dtype=bfloat16', '--weights=beside')
  assert code == 0
  how = capsys.readouterr().out
  model = create_model('ViT-Ti/8', num_classes=10, image_size=64, dtype='bfloat16', **SIZES)
  images = random_images(model, 2)
  want = expected(model, load_params(CHECKPOINT, model), images, closed=False)
  names = dict(jax=jax, np=np, images=images)
  exec(
    '\n'.join(line.strip() for line in how.splitlines()[1:]), names
  )  # the program that the tool prints
  np.testing.assert_array_equal(names['probabilities'], want)
  metadata = json.loads((tmp_path / 'vit.stablehlo.json').read_text())
  assert metadata['dtype'] == 'bfloat16' and metadata['weights'] == 'vit.stablehlo.npz'


@pytest.mark.parametrize(
  'args, words',
  [
    (['--checkpoint=none.npz'], 'none.npz: no such file'),
    (['--platforms=cpu,gpu'], "Unknown platform 'gpu'. Available: cpu, cuda, rocm, tpu."),
    (['--out=FILE/vit'], 'Cannot write FILE/vit ([Errno 17] File exists'),
    (['--out=FILE'], 'FILE exists. Delete it or choose another name.'),
    (['--out=DIR/x', '--weights=beside'], 'DIR/x.npz exists. Delete it or choose another name.'),
    (['--model=ViT-Ti/9'], 'ViT-Ti/9'),
    (['--to=onnx', '--platforms=cpu'], '--platforms is only for StableHLO. ONNX runs on'),
  ],
)
def test_errors_are_one_sentence(args, words, tmp_path, capsys):
  (tmp_path / 'x.npz').touch()
  fill = lambda text: text.replace('FILE', str(tmp_path / 'x.npz')).replace('DIR', str(tmp_path))
  code, _ = run_tool(tmp_path, *map(fill, args))
  error = capsys.readouterr().err
  assert code == 1 and error.startswith('error: ') and error.count('\n') == 1
  assert fill(words) in error
  assert [p.name for p in tmp_path.iterdir()] == ['x.npz']
