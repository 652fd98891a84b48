"""What training costs: our count of operations against XLA's, the paper's figures, the tool."""

import collections
import json
import math

import jax
from jax import lax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import pytest

from vit_jax import create_model
from vit_jax.config.fields import default_config
from vit_jax.cost.estimate import PUBLISHED, activation_bytes, device_days, implied_mfu
from vit_jax.models.flops import train_flops
from vit_jax.models.resnet import BiT
from vit_jax.parallel.devices import find_device
from vit_jax.tools import cost
from vit_jax.training.step import supervised

TPU_V3 = find_device('TPU v3')


def pad_first(convolution):
  """The same convolution with its zeros written into the image.

  XLA leaves the products with padding out of a convolution's count, we count them (as those who
  publish operations do); with the zeros in the image the function is the same and XLA sees them.
  """

  def padded(x, kernel, strides, padding, **options):
    if isinstance(padding, str):
      padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return convolution(x, kernel, strides, 'VALID', **options)

  return padded


def equations(jaxpr, found):
  """Counts the matrix products and convolutions of a program without loops, by kind and shapes."""
  for equation in jaxpr.eqns:
    assert equation.primitive.name not in ('scan', 'while'), 'a loop, which XLA counts once'
    if equation.primitive.name in ('dot_general', 'conv_general_dilated'):
      key = str((equation.primitive, equation.params, [x.aval for x in equation.invars]))
      times, _ = found.get(key, (0, None))
      found[key] = times + 1, equation
    for inner in jaxprs_in_params(equation.params):
      equations(inner, found)
  return found


def xla_flops(function, *args):
  return jax.jit(function).lower(*args).cost_analysis()['flops']


def gradient(name, **overrides):
  """(the model, the gradient of a training loss, the shapes of its arguments) for one image."""
  model = create_model(name, num_classes=1000, **overrides)
  image = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), image)
  loss = lambda params, image: model.apply(params, image).sum()
  return model, jax.grad(loss), (params, image)


def first_layer(model):
  """Operations of the layer that sees the image: it needs no gradient by its input."""
  h, w = model.image_size
  if isinstance(model, BiT) or model.resnet:
    return 2 * -(-h // 2) * -(-w // 2) * 7 * 7 * 3 * model.resnet.width
  return 2 * h * w * 3 * model.variant.hidden_dim


HEAVY = [
  pytest.param(x, marks=pytest.mark.slow)
  for x in (
    'ViT-L/32',
    'ViT-L/16',
    'ViT-H/14',
    'R50+ViT-L/32',
    'R50+ViT-L/16',
    'BiT-R101x1',
    'BiT-R152x1',
    'BiT-R50x2',
    'BiT-R152x2',
    'BiT-R152x4',
  )
]


@pytest.mark.parametrize(
  'name',
  [
    'ViT-Ti/16',
    'ViT-S/32',
    'ViT-S/16',
    'ViT-B/32',
    'ViT-B/16',
    'R50+ViT-B/32',
    'R50+ViT-B/16',
    'BiT-R50x1',
    *HEAVY,
  ],
)
def test_xla_counts_as_many_products_in_a_step(name, monkeypatch):
  """Full size and depth, no scan; but for the first layer, as the image needs no gradient.

  XLA counts every operation, elementwise ones too: what is compared is its count of each matrix
  product and convolution of the step's program, given to it alone.
  """
  monkeypatch.setattr(lax, 'conv_general_dilated', pad_first(lax.conv_general_dilated))
  model, step, args = gradient(name)
  products = 0
  for times, equation in equations(jax.make_jaxpr(step)(*args).jaxpr, {}).values():
    alone = lambda *operands: equation.primitive.bind(*operands, **equation.params)
    products += times * xla_flops(
      alone, *(jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in equation.invars)
    )
  assert products == pytest.approx(train_flops(model) - first_layer(model), rel=1e-6)


@pytest.mark.parametrize(
  'name, image_size', [('ViT-B/16', 224), pytest.param('ViT-H/14', 224, marks=pytest.mark.slow)]
)
def test_xla_counts_a_whole_step_about_the_same(name, image_size):
  """With elementwise work, of which a ViT has little: nothing of the step is forgotten."""
  model, step, args = gradient(name, image_size=image_size)
  assert 1 < xla_flops(step, *args) / train_flops(model) < 1.03


def test_the_papers_exaflops_are_ours():
  """Table 6, to the paper's rounding and 6 %; its ViTs, whose every layer is known, to 2 %."""
  ratios = collections.defaultdict(list)
  for row in PUBLISHED:
    if row.exaflops:
      c = cost._recipe(row)
      width = dict(representation_size=c.representation_size) if c.representation_size else {}
      model = create_model(row.model, num_classes=18_291, **width)
      ratios[row.model.startswith('ViT')].append(
        train_flops(model) * 303e6 * row.epochs / (row.exaflops * 1e18)
      )
  assert len(ratios[True]) == 6 and len(ratios[False]) == 11
  assert all(abs(x - 1) < 0.025 for x in ratios[True])
  assert all(abs(x - 1) < 0.08 for x in ratios[False])


def test_days_and_utilisation_are_each_others_inverse():
  assert device_days(61.5e12 * 86400, TPU_V3, 1.0) == pytest.approx(1.0)
  assert device_days(61.5e12 * 86400, TPU_V3, 0.25) == pytest.approx(4.0)
  assert implied_mfu(4262e18, TPU_V3, 2500) == pytest.approx(0.3208, abs=1e-4)
  assert implied_mfu(4262e18, TPU_V3, device_days(4262e18, TPU_V3, 0.37)) == pytest.approx(0.37)


def kept(**overrides):
  model = create_model(
    'ViT-Ti/8',
    num_classes=7,
    image_size=16,
    hidden_dim=16,
    mlp_dim=64,
    num_heads=2,
    **dict(num_layers=2) | overrides,
  )
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  return activation_bytes(supervised(model), params, model.image_size, 7)


def test_activations_by_hand():
  """What dense layers must keep: their inputs. Here of a block that keeps its own input alone."""
  one, two = (kept(remat='full', num_layers=n) for n in (1, 2))
  assert two - one == 5 * 16 * 4  # tokens, channels, bytes of float32


def test_remat_keeps_less_and_half_the_bytes_are_kept_in_bfloat16():
  none, dots, full = (kept(remat=x) for x in ('none', 'dots', 'full'))
  assert full < dots < none
  assert (
    kept(remat='full', dtype='bfloat16', num_layers=3)
    - kept(remat='full', dtype='bfloat16', num_layers=2)
    == 5 * 16 * 2
  )


def test_scan_keeps_about_what_unrolled_blocks_keep():
  assert kept(scan=True) == pytest.approx(kept(), rel=0.1)


def tiny(**fields):
  c = default_config()
  with c.unlocked():
    c.update(
      dict(
        model='ViT-Ti/8',
        image_size=16,
        hidden_dim=16,
        mlp_dim=64,
        num_heads=2,
        num_layers=1,
        batch_size=64,
        total_steps=10,
      )
      | fields
    )
  return c


def test_cost_of_a_config():
  found = cost.cost(tiny(), ['TPU v3', 'H200'], 0.5)
  block = 5 * (4 * 16**2 + 2 * 16 * 64) + 2 * 5**2 * 16
  forward = 2 * (4 * 192 * 16 + block + 16 * 1000)
  assert found['forward_flops'] == forward and found['train_flops'] == 3 * forward
  assert found['total_flops'] == 3 * forward * 10 * 64
  assert found['device_days']['TPU v3'] == pytest.approx(3 * forward * 640 / 61.5e12 / 0.5 / 86400)
  assert found['device_days']['TPU v3'] / found['device_days']['H200'] == pytest.approx(989 / 61.5)
  assert math.isclose(found['epochs'], 640 / 1_281_167)
  params = 192 * 16 + 16 + 16 + 5 * 16 + 4 * (16 * 16 + 16) + (2 * 16 * 64 + 64 + 16) + 6 * 16
  assert found['parameters'] == params + 16 * 1000 + 1000
  assert found['state_bytes'] == pytest.approx(12 * found['parameters'], rel=1e-3)  # Adam's two
  assert found['left_out'] == ['evaluations', 'elementwise work']


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
  assert '10,009 steps of 256: 2 epochs of 1,281,167 images' in text
  assert max(map(len, text.splitlines()[1:])) <= 100
  assert 'TPU v3' in text and 'H200' in text and 'A100' not in text
  assert cost.main([*argv, '--json', '--mfu=.5']) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['mfu'] == 0.5 and list(found['device_days']) == ['TPU v3', 'H200']


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
    (['--device=TPU v9'], "error: unknown device 'TPU v9'; there are TPU v2, TPU v3, TPU v4"),
    (['--mfu=0'], 'error: --mfu=0 must be more than 0 and at most 1'),
    (['--mfu=1.5'], 'error: --mfu=1.5 must be more than 0 and at most 1'),
    (['--mfu=nan'], 'error: --mfu=nan must be'),
    (['--config=nowhere.py'], 'error: Config file nowhere.py does not exist. Check the path.'),
    (
      ['--config=configs/vit_b16.py:mnist'],
      "error: Unknown pretraining data 'mnist'. Available: imagenet2012, imagenet21k, jft.",
    ),
    (
      ['--config=configs/vit_b16.py', '--config.bach_size=2'],
      "error: Unknown config field 'bach_size'. Did you mean 'batch_size'?",
    ),
    (['--num_images=5'], 'error: --num_images is of the data set of a --config'),
    (['vit_b16'], "error: Unknown argument 'vit_b16'. Flags look like --config.batch_size=256."),
    (['--mfoo=1'], 'error: Unknown command line flag'),
  ],
)
def test_errors_are_one_sentence(argv, words, capsys):
  assert cost.main(argv) == 1
  captured = capsys.readouterr()
  assert words in captured.err and captured.err.count('\n') == 1 and not captured.out
