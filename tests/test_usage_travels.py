"""A checkpoint is used in the same way, whichever command or format it goes through.

The checkpoint is one of timm with ImageNet's mean and standard deviation, a bicubic filter, a
center crop and class names. The expected probabilities are computed from its definition.
"""

import dataclasses
import json
import shlex
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from tests.helpers.images import encode, smooth_image
from tests.helpers.paths import FILES
from vit_jax import create_model, load_model, load_params, predict, save_params
from vit_jax.config.fields import default_config
from vit_jax.inference.export import export_stablehlo, load_exported
from vit_jax.models.usage import Usage
from vit_jax.pretrained.formats import read_arrays, read_checkpoint
from vit_jax.tools import convert, resize
from vit_jax.tools import predict as predict_tool
from vit_jax.training.loop import train

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = [f'breed {i}' for i in range(10)]
IMAGES = [smooth_image(47, 70, seed=1), smooth_image(90, 50, seed=2)]
USAGE = Usage(preset='inception', resize_size=35, eval_filter='bicubic', class_names=tuple(NAMES))


@pytest.fixture(scope='module')
def timm(tmp_path_factory):
  directory = tmp_path_factory.mktemp('timm') / 'deit'
  shutil.copytree(FILES / 'timm_tiny', directory)
  config = json.loads((directory / 'config.json').read_text())
  config['pretrained_cfg'] = dict(mean=MEAN, std=STD, interpolation='bicubic', crop_pct=0.9)
  config['label_names'] = NAMES
  (directory / 'config.json').write_text(json.dumps(config))
  return directory


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  directory = tmp_path_factory.mktemp('images')
  for i, image in enumerate(IMAGES):
    (directory / f'{i}.png').write_bytes(encode(image, 'PNG'))
  return [str(path) for path in sorted(directory.iterdir())]


def prepared(image, size=32):
  """Resize the short side with Pillow as timm does, crop the center, and return [0, 1]."""
  short = int(size / 0.9)
  height, width = (int(short * side / min(image.shape[:2])) for side in image.shape[:2])
  whole = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
  y, x = round((height - size) / 2), round((width - size) / 2)
  return np.asarray(whole)[y : y + size, x : x + size] / np.float32(255)


@pytest.fixture(scope='module')
def expected():
  model = create_model(
    'ViT-Ti/8',
    num_classes=10,
    image_size=32,
    hidden_dim=32,
    mlp_dim=128,
    num_heads=2,
    num_layers=2,
    activation='gelu',
  )
  params = load_params(FILES / 'timm_tiny', model)  # these arrays take normalized pixels
  pixels = (np.stack([prepared(image) for image in IMAGES]) - MEAN) / STD
  return np.asarray(jax.nn.softmax(model.apply({'params': params}, pixels.astype(np.float32))))


def probabilities(results):
  """Return the probabilities (N, 10), after checking the names."""
  rows = np.zeros((len(results), 10))
  for row, predictions in zip(rows, results):
    for p in predictions:
      assert p.name == NAMES[p.label]
      row[p.label] = p.probability
  return rows


def from_python(path, files):
  return probabilities(predict(*load_model(path)[:2], files, top_k=10))


def from_command(capsys, *arguments):
  assert predict_tool.main(['--json', '--top_k=10', *arguments]) == 0
  rows = np.zeros((2, 10))
  for row, line in zip(rows, capsys.readouterr().out.splitlines()):
    for p in json.loads(line)['predictions']:
      assert p['name'] == NAMES[p['class']]
      row[p['class']] = p['probability']
  return rows


def test_python_and_the_command_agree(timm, files, expected, capsys):
  assert np.abs(expected[0] - expected[1]).max() > 0.01
  assert load_model(timm).model.usage == USAGE
  np.testing.assert_allclose(from_python(timm, files), expected, atol=2e-6)
  np.testing.assert_allclose(
    from_command(capsys, f'--checkpoint={timm}', *files), expected, atol=2e-6
  )


@pytest.mark.parametrize('to', ['timm', 'hf', 'orbax'])
@pytest.mark.parametrize('suffix', ['', '.safetensors'])
def test_formats_that_keep_everything(timm, files, expected, tmp_path, to, suffix):
  if to == 'orbax' and suffix:
    pytest.skip('an Orbax checkpoint is a directory')
  out = tmp_path / f'out{suffix}'
  assert convert.main([str(timm), str(out), f'--to={to}']) == 0
  usage = dataclasses.replace(load_model(out).model.usage, loss=None, fast_dct=None)
  assert usage == USAGE
  np.testing.assert_allclose(from_python(out, files), expected, atol=2e-6)
  model, params, names = load_model(out)
  save_params(params, tmp_path / f'again{suffix}', to, model=model)
  np.testing.assert_allclose(from_python(tmp_path / f'again{suffix}', files), expected, atol=2e-6)
  assert names == NAMES


def test_npz_absorbs_the_normalization_and_the_rest_is_said(
  timm, files, expected, tmp_path, capsys
):
  out = tmp_path / 'out.npz'
  assert convert.main([str(timm), str(out)]) == 0
  lost = (
    "activation='gelu', preset='inception', eval_filter='bicubic', resize_size=35, the class names"
  )
  assert capsys.readouterr().out.splitlines()[1:] == [
    f'Wrote {out} (npz, the same outputs).',
    f'Note: npz does not keep {lost}.',
    f'Note: npz does not keep the normalization of pixels (mean {MEAN}, std {STD}). The patch '
    f'embedding of {out} absorbs it, so the model takes images in [-1, 1].',
  ]
  (tmp_path / 'names').write_text('\n'.join(NAMES))
  flags = [
    f'--checkpoint={out}',
    '--override=activation=gelu',
    '--preset=inception',
    '--eval_filter=bicubic',
    '--resize_size=35',
    f'--labels={tmp_path}/names',
  ]
  np.testing.assert_allclose(from_command(capsys, *flags, *files), expected, atol=2e-6)


@pytest.mark.parametrize('name', ['out', 'out.safetensors', 'out.npz'])
def test_a_resized_file_with_the_flags_that_are_printed(
  timm, files, tmp_path, capsys, caplog, monkeypatch, name
):
  (tmp_path / 'FILE').write_text('\n'.join(NAMES))
  out = tmp_path / name
  assert resize.main([str(timm), str(out), '--image_size=64']) == 0
  resized = create_model(
    'ViT-Ti/8',
    num_classes=10,
    image_size=64,
    hidden_dim=32,
    mlp_dim=128,
    num_heads=2,
    num_layers=2,
    activation='gelu',
  )
  pixels = (np.stack([prepared_like(image) for image in IMAGES]) - MEAN) / STD
  params = load_params(FILES / 'timm_tiny', resized)
  expected = jax.nn.softmax(resized.apply({'params': params}, pixels.astype(np.float32)))
  _, train_with, *predict_with = capsys.readouterr().out.splitlines()
  assert train_with == (
    f'Wrote {out}. Train from it with: python -m vit_jax.main --config=FILE --workdir=DIR '
    f'--config.init_from={out} --config.image_size=64 --config.model=ViT-Ti/8 '
    '--config.hidden_dim=32 --config.mlp_dim=128 --config.num_heads=2 --config.num_layers=2 '
    '--config.activation=gelu'
  )
  if name != 'out.npz':
    assert not predict_with
    np.testing.assert_allclose(from_python(out, files), expected, atol=2e-6)
    return
  assert 'The patch embedding of ' in caplog.text and 'absorbs it' in caplog.text
  assert predict_with == [
    f'Predict with it: python -m vit_jax.tools.predict --checkpoint={out} '
    '--override=activation=gelu --preset=inception --eval_filter=bicubic --resize_size=70 '
    '--labels=FILE IMAGE'
  ]
  monkeypatch.chdir(tmp_path)
  flags = shlex.split(predict_with[0].split('vit_jax.tools.predict ')[1])[:-1]
  actual = from_command(capsys, *flags, *files)
  np.testing.assert_allclose(actual, expected, atol=2e-6)


def prepared_like(image):
  """Prepare an image of 64 pixels. The 35 pixels before the crop have become 70."""
  height, width = (int(70 * side / min(image.shape[:2])) for side in image.shape[:2])
  whole = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
  y, x = round((height - 64) / 2), round((width - 64) / 2)
  return np.asarray(whole)[y : y + 64, x : x + 64] / np.float32(255)


def test_images_that_are_not_square_are_not_cropped(timm, files, caplog):
  model, params, _ = load_model(timm, image_size=(32, 64))
  assert (model.usage.preset, model.usage.eval_filter) == ('bit', 'bicubic')
  assert caplog.messages[-1] == (
    f'{timm}: Images of 32x64 pixels are resized to that size as a whole, because the preset '
    "'inception' crops squares."
  )
  whole = [
    np.asarray(Image.fromarray(x).resize((64, 32), Image.Resampling.BICUBIC)) for x in IMAGES
  ]
  pixels = np.stack(whole) / np.float32(127.5) - 1
  expected = jax.nn.softmax(model.apply({'params': params}, pixels))
  actual = probabilities(predict(model, params, files, top_k=10))
  np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_export(timm, expected, tmp_path):
  model, params, _ = load_model(timm)
  export_stablehlo(model, params, tmp_path / 'x', platforms=['cpu'])
  description = json.loads((tmp_path / 'x.json').read_text())
  assert description['preprocessing'] == {
    'preset': 'inception',
    'resize_size': 35,
    'filter': 'bicubic',
    'fast_dct': False,
  }
  assert description['class_names'] == NAMES
  pixels = np.stack([np.rint(255 * prepared(image)) for image in IMAGES]).astype(np.uint8)
  np.testing.assert_allclose(load_exported(tmp_path / 'x')(pixels), expected, atol=2e-6)


@pytest.mark.slow
def test_training_starts_from_the_same_model(timm, tmp_path, digits_dir):
  c = default_config()
  c.update(
    dict(
      model='ViT-Ti/8',
      hidden_dim=32,
      mlp_dim=128,
      num_heads=2,
      num_layers=2,
      image_size=32,
      dtype='float32',
      dataset='digits',
      data_dir=digits_dir,
      preset='bit',
      batch_size=8,
      total_steps=1,
      warmup_steps=1,
      lr=1e-9,
      eval_split='none',
      num_threads=2,
      init_from=str(timm),
    )
  )
  train(c, tmp_path / 'run')
  started, expected = read_arrays(tmp_path / 'run'), load_model(timm)
  np.testing.assert_allclose(
    started['embedding/kernel'], expected.params['embedding']['kernel'], atol=1e-6
  )
  np.testing.assert_allclose(
    started['embedding/bias'], expected.params['embedding']['bias'], atol=1e-6
  )
  assert np.abs(started['embedding/bias'] - read_arrays(timm)['embedding/bias']).max() > 0.01
  assert (
    "records activation='gelu', but the model has 'gelu_tanh', so its outputs will differ. To "
    'follow the file, pass --config.activation=gelu.'
  ) in (tmp_path / 'run' / 'log.txt').read_text()
  assert read_checkpoint(tmp_path / 'run').metadata.custom_normalization is None
