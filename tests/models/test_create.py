"""Create every model of the paper and of the published checkpoints, and refuse wrong names."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import create_model, load_params, save_params
from vit_jax.models.sizes import VARIANTS
from vit_jax.pretrained.load import abstract_params

# Published counts, for 1000 classes at 224 px. BiT has 21,843 classes.
PUBLISHED = {
  'ViT-Ti/16': 5_717_416,
  'ViT-S/16': 22_050_664,
  'ViT-S/32': 22_878_952,
  'ViT-B/8': 86_576_872,
  'ViT-B/16': 86_567_656,
  'ViT-B/32': 88_224_232,
  'ViT-L/16': 304_326_632,
  'ViT-L/32': 306_535_400,
  'ViT-H/14': 632_045_800,
  'R+ViT-Ti/16': 6_337_704,
  'R26+ViT-S/32': 36_431_912,
  'R26+ViT-B/32': 101_383_976,
  'R50+ViT-B/16': 98_659_112,
  'R50+ViT-L/32': 328_994_856,
  'BiT-R50x1': 68_256_659,
  'BiT-R101x1': 87_248_787,
  'BiT-R50x3': 345_399_315,
  'BiT-R101x3': 516_015_123,
  'BiT-R152x2': 321_728_979,
  'BiT-R152x4': 1_107_299_923,
}
# The paper's other models and later sizes. A formula counts their parameters.
OTHERS = [
  'ViT-g/14',
  'ViT-G/14',
  'ViT-e/14',
  'R50+ViT-B/32',
  'R50+ViT-L/16',
  'BiT-R50x2',
  'BiT-R152x1',
]


def formula(model):
  """Return the number of parameters with 1000 classes (BiT: 21,843), by a hand-written formula."""
  if not hasattr(model, 'variant'):
    n = model.resnet.width
    count, channels = 7 * 7 * 3 * n, n
    for units in model.resnet.units:
      for i in range(units):
        count += channels * n + 9 * n * n + 4 * n * n + 2 * (channels + 2 * n)
        count += channels * 4 * n if i == 0 else 0
        channels = 4 * n
      n *= 2
    return count + 2 * channels + (channels + 1) * model.num_classes
  count, channels = 0, 3
  if model.resnet:
    n = channels = 64
    count = 7 * 7 * 3 * n + 2 * n
    for units in model.resnet.units:
      for i in range(units):
        count += channels * n + 9 * n * n + 4 * n * n + 2 * 6 * n
        count += channels * 4 * n + 8 * n if i == 0 else 0
        channels = 4 * n
      n *= 2
  d, mlp, _, layers = model.variant
  count += (channels * model.patch_size**2 + 1) * d + d + (1 + math.prod(model.grid)) * d
  count += layers * (4 * d * d + 4 * d + 2 * d * mlp + mlp + d + 4 * d)
  return count + 2 * d + (d + 1) * model.num_classes


def shallow(model):
  """Return the model with one block, and one unit of width 1 in each stage of its ResNet."""
  changes = {}
  if model.resnet:
    changes['resnet'] = model.resnet._replace(units=(1,) * len(model.resnet.units), width=64)
  if hasattr(model, 'variant'):
    changes['variant'] = model.variant._replace(num_layers=1)
  return model.clone(num_classes=10, **changes)


@pytest.mark.parametrize('name', [*PUBLISHED, *OTHERS])
def test_model(name, tmp_path):
  classes = 21_843 if name.startswith('BiT') else 1000
  model = create_model(name, num_classes=classes)
  images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
  logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
  assert (logits.shape, logits.dtype) == ((2, classes), jnp.float32)
  count = sum(x.size for x in jax.tree.leaves(variables))
  assert count == formula(model) == PUBLISHED.get(name, count)

  model = shallow(model)
  rng = np.random.default_rng(0)
  noise = rng.standard_normal(10_007).astype(np.float32)
  params = jax.tree.map(lambda x: np.resize(noise, x.size).reshape(x.shape), abstract_params(model))
  save_params(params, tmp_path / 'model.npz')
  loaded = load_params(tmp_path / 'model.npz', model)
  assert jax.tree.structure(loaded) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_the_table_is_covered():
  assert {
    n.split('ViT-')[-1].split('/')[0] for n in PUBLISHED | dict.fromkeys(OTHERS) if 'ViT' in n
  } == set(VARIANTS)


@pytest.mark.parametrize(
  'name, overrides, words',
  [
    ('ViT-Q/16', {}, 'Unknown model'),
    ('B/16', {}, 'Unknown model'),
    ('ViT-B/0', {}, 'Unknown model'),
    ('ViT-B/16', {'image_size': 225}, 'multiple of the patch size 16'),
    ('ViT-B/16', {'head': 'cls'}, "Unknown head 'cls'. Available: token, gap, map."),
    ('ViT-B/16', {'dropout': 1.5}, r'dropout must be in \[0, 1\), but it is 1.5.'),
    ('ViT-B/16', {'num_classes': -1}, 'num_classes must not be negative, but it is -1.'),
    ('ViT-B/16', {'drop_rate': 0.1}, "Unknown ViT-B/16 field 'drop_rate'. "),
  ],
)
def test_bad_models_say_what_is_wrong(name, overrides, words):
  with pytest.raises(ValueError, match=words):
    create_model(name, **{'num_classes': 10, **overrides})


@pytest.mark.parametrize(
  'name, overrides, words',
  [
    ('R50+ViT-B/8', {}, 'stage 3 of R50 has stride 16, which does not divide 8'),
    ('R50+ViT-B/16', {'resnet_stages': 4}, 'stage 4 of R50 has stride 32'),
    ('R50+ViT-B/32', {'resnet_stages': 2}, 'resnet_stages=2 does not fit'),
    ('ViT-B/32', {'resnet_stages': 3}, 'resnet_stages=3 does not fit ViT-B/32'),
    ('R50+ViT-B/16', {'image_size': 220}, 'multiple of the stride 16 of R50.ViT-B/16. Try 224.'),
    ('R50+ViT-Q/16', {}, 'Unknown model'),
    ('R18+ViT-B/16', {}, 'Unknown model'),
    ('BiT-R26x1', {}, 'Unknown model'),
    ('BiT-R50', {}, 'Unknown model'),
    ('BiT-R50x1', {'head': 'gap'}, "Unknown BiT-R50x1 field 'head'. "),
    ('BiT-R50x1', {'num_layers': 3}, "Unknown BiT-R50x1 field 'num_layers'. "),
  ],
)
def test_impossible_names(name, overrides, words):
  with pytest.raises(ValueError, match=words):
    create_model(name, **{'num_classes': 10, **overrides})


@pytest.mark.parametrize(
  'overrides, words',
  [
    ({'pos_embedding': 'rotary'}, "Unknown pos_embedding 'rotary'. Available: learned, learned2d"),
    (
      {'pos_embedding_at': 'end'},
      "Unknown pos_embedding_at 'end'. Available: stem, every, shared.",
    ),
    ({'attention': 'axial'}, "Use head='gap' or 'map', and no registers."),
    ({'attention': 'axial', 'head': 'map', 'registers': 2}, 'and no registers.'),
    (
      {
        'attention': 'axial',
        'head': 'gap',
        'pos_embedding': 'relative',
        'pos_embedding_at': 'shared',
      },
      'rows and columns have relative positions of their own',
    ),
    (
      {'registers': 2, 'pos_embedding_at': 'every'},
      "Registers have no position, so pos_embedding_at='every' does not fit them.",
    ),
  ],
)
def test_impossible_combinations(overrides, words):
  with pytest.raises(ValueError, match=words):
    create_model('ViT-Ti/8', num_classes=5, image_size=16, **overrides)
