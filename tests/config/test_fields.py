import dataclasses
import importlib.util

from ml_collections import ConfigDict
import pytest

from tests.helpers.paths import ROOT
from vit_jax import create_model
from vit_jax.config.fields import check_config, default_config, mixup, model_overrides, rand_augment
from vit_jax.models.vit import VisionTransformer

CONFIGS = ROOT / 'configs'


def load(name, *arg):
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*arg)


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda p: p.stem)
def test_every_config_is_complete_and_builds_its_model(path):
  c = load(path.stem)
  check_config(c)
  assert set(c) == set(default_config())
  create_model(c.model, num_classes=10, image_size=c.image_size, **model_overrides(c))


def test_the_papers_imagenet_recipe():
  """Table 3, last row."""
  c = load('vit_b16')
  assert (c.model, c.dataset, c.num_epochs, c.batch_size) == ('ViT-B/16', 'imagenet2012', 300, 4096)
  assert (c.lr, c.schedule, c.warmup_steps) == (3e-3, 'cosine', 10_000)
  assert (c.beta1, c.beta2, c.weight_decay, c.dropout, c.clip_norm) == (0.9, 0.999, 0.3, 0.1, 1)
  assert (c.image_size, c.preset, c.loss, c.representation_size) == (
    224,
    'inception',
    'softmax',
    768,
  )


@pytest.mark.parametrize(
  'file, data, epochs, lr, decay, dropout',
  [
    ('vit_b16', 'imagenet21k', 90, 1e-3, 0.03, 0.1),
    ('vit_l16', 'imagenet21k', 90, 1e-3, 0.03, 0.1),
    ('vit_b16', 'jft', 7, 8e-4, 0.1, 0),
    ('vit_b32', 'jft', 7, 8e-4, 0.1, 0),
    ('pretrain', 'R50+ViT-L/32,jft', 7, 2e-4, 0.1, 0),
    ('pretrain', 'BiT-R152x2,jft', 7, 6e-4, 0.1, 0),
    ('pretrain', 'BiT-R50x1,imagenet21k', 90, 1e-3, 0.03, 0),
    ('vit_l16', 'jft', 14, 4e-4, 0.1, 0),
    ('vit_h14', 'jft', 14, 3e-4, 0.1, 0),
  ],
)
def test_the_papers_other_rows(file, data, epochs, lr, decay, dropout):
  c = load(file, data)
  assert (c.num_epochs, c.lr, c.weight_decay, c.dropout) == (epochs, lr, decay, dropout)
  assert (c.schedule, c.linear_end, c.clip_norm, c.batch_size) == ('linear', 1e-5, 0, 4096)
  assert (c.loss, c.head_bias_init) == ('sigmoid', -10)


@pytest.mark.parametrize(
  'arg, steps, warmup, size',
  [
    ('ViT-B/16,imagenet2012', 20_000, 500, 384),
    ('ViT-L/16,imagenet2012', 20_000, 500, 512),
    ('ViT-H/14,imagenet2012', 20_000, 500, 518),
    ('ViT-H/14,cifar10', 10_000, 500, 378),
    ('R50+ViT-B/16,cifar100', 10_000, 500, 384),
    ('ViT-L/16,oxford_iiit_pet', 500, 100, 384),
    ('ViT-B/32,oxford_flowers102', 500, 100, 384),
    ('BiT-R50x1,my/photos', 2500, 500, 384),
  ],
)
def test_table_4(arg, steps, warmup, size):
  c = load('finetune', arg)
  assert (c.total_steps, c.warmup_steps, c.image_size) == (steps, warmup, size)
  assert (c.optimizer, c.momentum, c.batch_size, c.schedule) == ('sgd', 0.9, 512, 'cosine')
  assert (c.weight_decay, c.clip_norm, c.dropout, c.representation_size) == (0, 1, 0, 0)
  assert c.new_head and c.loss == 'softmax'
  check_config(c)


def test_recipes_fit_their_model():
  """ResNets have no hidden layer in the head and no dropout; hybrids have their ViT's width."""
  bit, hybrid = load('pretrain', 'BiT-R101x1'), load('pretrain', 'R50+ViT-L/16')
  assert (bit.representation_size, bit.dropout, hybrid.representation_size) == (0, 0, 1024)
  model = create_model(bit.model, num_classes=7, **model_overrides(bit))
  assert (model.resnet.units, model.num_classes) == ((3, 4, 23, 3), 7)
  assert create_model(hybrid.model, num_classes=7, **model_overrides(hybrid)).patch_size == 1
  bit.dropout = 0.1
  with pytest.raises(ValueError, match="unknown field 'dropout' of BiT-R101x1"):
    create_model(bit.model, num_classes=7, **model_overrides(bit))


def test_every_field_of_a_model_is_in_the_config():
  c = default_config()
  fields = {f.name: f.default for f in dataclasses.fields(VisionTransformer)}
  given = {f: v for f, v in model_overrides(c).items() if f in fields and f != 'dtype'}
  assert given == {f: fields[f] for f in given}  # with the same defaults
  missing = (
    set(fields)
    - set(model_overrides(c))
    - {'variant', 'patch_size', 'image_size', 'num_classes', 'resnet', 'parent', 'name'}
  )
  assert not missing


def test_every_field_has_a_comment():
  source = (CONFIGS.parent / 'vit_jax' / 'config.py').read_text()
  fields = [line for line in source.splitlines() if line.startswith('  c.')]
  assert len(fields) == len(default_config())
  bare = [f for f in fields if '#' not in f]
  assert [f.split()[0] for f in bare] == ['c.label_smoothing', 'c.linear_end']


@pytest.mark.parametrize(
  'change, words',
  [
    ({'loss': 'hinge'}, 'config.loss=.hinge. is not one of softmax, sigmoid'),
    ({'augment': 'heavy1'}, "config.augment='heavy1' is not one of none, light1, light2, m"),
    ({'rand_augment': (2,)}, r'config.rand_augment=\(2,\) must be two numbers'),
    ({'batch_size': 0}, 'config.batch_size must be at least 1'),
    ({'lr': -1.0}, 'config.lr must not be negative'),
    ({'total_steps': 0, 'num_epochs': 0.0}, 'both 0'),
    ({'keep_every': 1500}, 'must be a multiple of config.save_every=1000'),
    ({'label_smoothing': 1.0}, 'label_smoothing must be in'),
  ],
)
def test_bad_values(change, words):
  c = default_config()
  c.update(change)
  with pytest.raises(ValueError, match=words):
    check_config(c)


def test_unknown_and_mistyped_fields():
  c = default_config()
  with pytest.raises(AttributeError):
    c.batchsize = 3
  with pytest.raises(TypeError):
    c.batch_size = 'many'
  with pytest.raises(ValueError, match="field 'batchsize'; did you mean 'batch_size'"):
    check_config(ConfigDict({**default_config(), 'batchsize': 3}))


@pytest.mark.parametrize(
  'level, p, operations',
  [
    ('none', 0, (0, 0)),
    ('light1', 0, (2, 0)),
    ('light2', 0.2, (2, 10)),
    ('medium1', 0.2, (2, 15)),
    ('medium2', 0.5, (2, 15)),
    ('strong1', 0.5, (2, 20)),
    ('strong2', 0.8, (2, 20)),
  ],
)
def test_augreg_levels(level, p, operations):
  c = load('augreg', f'S/16,{level}')
  assert (c.model, c.augment, mixup(c), rand_augment(c)) == ('ViT-S/16', level, p, operations)
  c.mixup, c.rand_augment = 0.3, (1, 7)  # a config's own come first
  assert (mixup(c), rand_augment(c)) == (0.3, (1, 7))


def test_augreg_recipe():
  c = load('augreg', 'R26+S/32,light1,imagenet21k')
  assert (c.model, c.dataset, c.loss, c.head_bias_init) == (
    'R26+ViT-S/32',
    'imagenet21k',
    'sigmoid',
    -10,
  )
  assert (c.batch_size, c.num_epochs, c.lr, c.warmup_steps, c.schedule) == (
    4096,
    300,
    1e-3,
    10_000,
    'cosine',
  )
  assert (c.optimizer, c.beta1, c.beta2, c.weight_decay, c.clip_norm) == (
    'adam',
    0.9,
    0.999,
    0.1,
    1,
  )
  assert (c.dropout, c.stochastic_depth, c.representation_size) == (0, 0, 0)
  assert load('augreg', 'ViT-B/16').augment == 'medium2'
  assert load('augreg', 'B/16').loss == 'softmax'
  check_config(c)


@pytest.mark.parametrize(
  'arg, words',
  [
    (
      'S/16,heavy',
      "unknown level 'heavy' after the colon of --config; there are none, light1, "
      'light2, medium1, medium2, strong1, strong2$',
    ),
    ('S/16,light1,jft', "unknown pretraining data 'jft' .* there are imagenet2012, imagenet21k$"),
  ],
)
def test_augreg_of_what_is_not_there(arg, words):
  with pytest.raises(ValueError, match=words):
    load('augreg', arg)


@pytest.mark.parametrize(
  'dataset, steps, drops, mixup, sizes',
  [
    ('oxford_flowers102', 500, (200, 300, 400), 0, (512, 480)),  # 2,040 images
    ('cifar10', 10_000, (3000, 6000, 9000), 0.1, (160, 128)),
    ('imagenet2012', 20_000, (6000, 12_000, 18_000), 0.1, (512, 480)),
  ],
)
def test_bit_hyperrule(dataset, steps, drops, mixup, sizes):
  c = load('bit_hyperrule', f'BiT-R50x1,{dataset}')
  assert (c.total_steps, c.lr_drops, c.mixup) == (steps, drops, mixup)
  assert (c.resize_size, c.image_size) == sizes
  assert (c.optimizer, c.lr, c.batch_size, c.clip_norm) == ('sgd', 0.003, 512, 0)
  check_config(c)


def test_table_2_averages_on_imagenet_alone():
  average = lambda arg: load('finetune', arg).average
  assert average('ViT-L/16,imagenet2012') == average('ViT-H/14,imagenet2012') == 0.9999
  assert average('ViT-B/16,imagenet2012') == average('ViT-H/14,cifar10') == 0
