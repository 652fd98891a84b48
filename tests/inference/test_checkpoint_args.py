"""Arguments are parsed, and determine the class names and the loss of a model."""

import argparse
from types import SimpleNamespace

import pytest

from tests.helpers.paths import FILES
from vit_jax.errors import InputError
from vit_jax.inference import checkpoint_args
from vit_jax.models.usage import Usage
from vit_jax.pretrained.load import Loaded


def parse(*args, **options):
  parser = argparse.ArgumentParser()
  checkpoint_args.add_arguments(parser, **options)
  return parser.parse_args(['--checkpoint=x.npz', *args])


def test_defaults():
  args = parse()
  assert (args.checkpoint, args.model, args.image_size, args.override) == ('x.npz', None, None, [])
  assert (args.dtype, args.loss, args.class_names) == ('float32', None, None)
  assert parse(dtype=None).dtype is None
  assert 'class_names' not in parse(labels=False)


def test_values():
  args = parse('--image_size=16,32', '--override=registers=4', '--override=head=gap')
  assert args.image_size == (16, 32) and args.override == [('registers', 4), ('head', 'gap')]


@pytest.mark.parametrize('text, size', [('384', 384), ('384,384', 384), ('384,512', (384, 512))])
def test_image_size(text, size):
  assert checkpoint_args.image_size(text) == size


@pytest.mark.parametrize('text', ['', 'a', '1,2,3'])
def test_no_image_size(text):
  with pytest.raises(ValueError):
    checkpoint_args.image_size(text)


def test_loss():
  loss = lambda *args, **usage: (
    checkpoint_args.usage(
      parse(*args), Loaded(SimpleNamespace(usage=Usage(**usage)), None, None)
    ).loss
  )
  assert loss() == 'softmax'
  assert loss(loss='sigmoid') == 'sigmoid'
  assert loss('--loss=softmax', loss='sigmoid') == 'softmax'


def test_how_images_are_resized():
  parser = argparse.ArgumentParser()
  checkpoint_args.add_arguments(parser)
  checkpoint_args.add_preprocess_arguments(parser)

  def usage(*args, **usage):
    loaded = Loaded(SimpleNamespace(usage=Usage(**usage)), None, None)
    result = checkpoint_args.usage(parser.parse_args(['--checkpoint=x', *args]), loaded)
    return result.preset, result.resize_size, result.eval_filter

  recorded = dict(preset='inception', resize_size=40, eval_filter='bicubic')
  assert usage() == ('bit', None, 'bilinear')
  assert usage(**recorded) == ('inception', 40, 'bicubic')
  assert usage('--resize_size=50', '--eval_filter=area', **recorded) == ('inception', 50, 'area')
  assert usage('--preset=inception', **recorded) == ('inception', 40, 'bicubic')
  assert usage('--preset=squash', **recorded) == ('squash', None, 'bilinear')  # another size
  assert usage('--preset=inception') == ('inception', None, 'area')


def test_class_names(tmp_path):
  path = tmp_path / 'names'
  path.write_text('Ameise\nBiene\nChamäleon\n')
  loaded = lambda names: SimpleNamespace(model=SimpleNamespace(num_classes=3), class_names=names)
  names = lambda *args, names=None: checkpoint_args.class_names(parse(*args), loaded(names))
  assert names() is None
  assert names(names=['a', 'b']) == ['a', 'b', 'class 2']  # the head is wider than the data
  assert names(f'--labels={path}', names=['a']) == ['Ameise', 'Biene', 'Chamäleon']
  path.write_text('Ameise\n')
  words = f'^{path} must have one line for each of the 3 classes of the model, but it has 1.$'
  with pytest.raises(InputError, match=words):
    names(f'--labels={path}')
  path.unlink()
  with pytest.raises(InputError, match=f'^Cannot read {path}: No such file or directory.$'):
    names(f'--labels={path}')


@pytest.mark.parametrize(
  'override, message',
  [
    ('num_heads=abc', '--override=num_heads=abc has a value of the wrong type. Could not override'),
    ('num_layers=3.5', '--override=num_layers=3.5 has a value of the wrong type. Could not '),
    ('layer_scale=high', '--override=layer_scale=high has a value of the wrong type. Could not '),
    ('num_layers=-1', 'config.num_layers must not be negative, got -1.'),
    ('num_heads=0', 'num_heads must be at least 1, but it is 0.'),
    ('hidden_dim=0', 'hidden_dim must be at least 1, but it is 0.'),
    ('num_heads=5', 'hidden_dim=192 is not divisible by num_heads=5.'),
    ('head=tail', "Unknown head 'tail'. Available: token, gap, map."),
    ('legs=4', "Unknown ViT-Ti/16 field 'legs'. "),
  ],
)
def test_a_bad_override_is_one_sentence(override, message):
  args = parse(f'--override={override}', '--model=ViT-Ti/16')
  args.checkpoint = str(FILES / 'vit_token.npz')
  with pytest.raises(InputError) as error:
    checkpoint_args.load(args)
  assert str(error.value).startswith(message) and '\n' not in str(error.value)
