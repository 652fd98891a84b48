import pytest

from tests.helpers.configs import load
from vit_jax import create_model
from vit_jax.config.checks import check_config
from vit_jax.config.fields import mixup, model_overrides, rand_augment


def test_the_papers_imagenet_recipe():
  """The numbers are those in the last row of table 3."""
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
  assert (c.schedule, c.linear_end, c.clip_norm, c.batch_size) == ('linear', 1e-5, None, 4096)
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
  assert (c.weight_decay, c.clip_norm, c.dropout, c.representation_size) == (0, 1, 0, None)
  assert c.new_head and c.loss == 'softmax'
  check_config(c)


def test_recipes_fit_their_model():
  """ResNets have no hidden layer in the head and no dropout. Hybrids have their ViT's width."""
  bit, hybrid = load('pretrain', 'BiT-R101x1'), load('pretrain', 'R50+ViT-L/16')
  assert (bit.representation_size, bit.dropout, hybrid.representation_size) == (None, 0, 1024)
  model = create_model(bit.model, num_classes=7, **model_overrides(bit))
  assert (model.resnet.units, model.num_classes) == ((3, 4, 23, 3), 7)
  assert create_model(hybrid.model, num_classes=7, **model_overrides(hybrid)).patch_size == 1
  bit.dropout = 0.1
  with pytest.raises(ValueError, match="Unknown BiT-R101x1 field 'dropout'. "):
    create_model(bit.model, num_classes=7, **model_overrides(bit))


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
  c.mixup, c.rand_augment = 0.3, (1, 7)  # the config's own values take precedence
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
  assert (c.dropout, c.stochastic_depth, c.representation_size) == (0, 0, None)
  assert load('augreg', 'ViT-B/16').augment == 'medium2'
  assert load('augreg', 'B/16').loss == 'softmax'
  check_config(c)


@pytest.mark.parametrize(
  'arg, words',
  [
    (
      'S/16,heavy',
      "^Unknown level of augmentation 'heavy'. Available: none, light1, light2, medium1, medium2, "
      'strong1, strong2[.]$',
    ),
    (
      'S/16,light1,jft',
      "^Unknown pretraining data 'jft'. Available: imagenet2012, imagenet21k[.]$",
    ),
  ],
)
def test_augreg_of_what_is_not_there(arg, words):
  with pytest.raises(ValueError, match=words):
    load('augreg', arg)


@pytest.mark.parametrize(
  'dataset, steps, drops, p, sizes',
  [
    ('oxford_flowers102', 500, (200, 300, 400), 0, (512, 480)),  # 2,040 images
    ('cifar10', 10_000, (3000, 6000, 9000), 0.1, (160, 128)),
    ('imagenet2012', 20_000, (6000, 12_000, 18_000), 0.1, (512, 480)),
  ],
)
def test_bit_hyperrule(dataset, steps, drops, p, sizes):
  c = load('bit_hyperrule', f'BiT-R50x1,{dataset}')
  assert (c.total_steps, c.lr_drops, mixup(c)) == (steps, drops, p)
  assert (c.resize_size, c.image_size) == sizes
  assert (c.optimizer, c.lr, c.batch_size, c.clip_norm) == ('sgd', 0.003, 512, None)
  check_config(c)


def test_table_2_averages_on_imagenet_alone():
  average = lambda arg: load('finetune', arg).average
  assert average('ViT-L/16,imagenet2012') == average('ViT-H/14,imagenet2012') == 0.9999
  assert average('ViT-B/16,imagenet2012') is None and average('ViT-H/14,cifar10') is None
