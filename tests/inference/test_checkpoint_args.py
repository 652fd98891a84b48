"""Arguments are parsed, and determine the class names and the loss of a model."""

import argparse
from types import SimpleNamespace

import pytest

from vit_jax.config.run import Run
from vit_jax.errors import InputError
from vit_jax.inference import checkpoint_args


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


def test_loss(tmp_path):
  run = Run(tmp_path, {'loss': 'sigmoid'})
  assert checkpoint_args.loss(parse(), None) == 'softmax'
  assert checkpoint_args.loss(parse(), run) == 'sigmoid'
  assert checkpoint_args.loss(parse('--loss=softmax'), run) == 'softmax'


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
