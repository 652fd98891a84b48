"""Tests of the command `python -m vit_jax.tools.aot`."""

import json

import jax
import pytest

from vit_jax.cost import plan
from vit_jax.tools import aot


@pytest.mark.parametrize(
  'arguments, sentence',
  [
    (['--config=configs/vit_b16.py', '--topology=v5e:3x5'], "v5e has no slice 'v5e:3x5'. "),
    (
      ['--config=configs/vit_b16.py', '--config.batchsize=3'],
      "Unknown config field 'batchsize'. Did you mean 'batch_size'?",
    ),
    (['--config=configs/vit_b16.py', '--topolgy=v5e:2x2'], "Unknown command line flag 'topolgy'"),
    (['--config=configs/vit_b16.py', '--mfu=2'], '--mfu=2 is out of range. '),
    (
      ['--config=configs/vit_b16.py', '--config.mesh=2,2'],
      "config.mesh=(2, 2) has no effect with config.parallel='pmap'. Leave it out, or set ",
    ),
    (['--config=configs/none.py'], 'Config file configs/none.py does not exist. Check the path.'),
    ([], 'No config. Give one with --config=FILE'),
    (
      ['--config=configs/vit_b16.py', 'v5e:2x2'],
      "Unknown argument 'v5e:2x2'. Flags look like --config.batch_size=256.",
    ),
    (
      ['--config=configs/vit_b16.py', '--config.dataset=mine', '--config.data_dir=/nowhere'],
      'You can also give --num_images and --config.num_classes.',
    ),
    (
      ['--config=configs/vit_b16.py', '--config.remat=some'],
      "Unknown remat 'some'. Available: none, dots, full.",
    ),
  ],
)
def test_errors_are_one_sentence(arguments, sentence, capsys, monkeypatch):
  monkeypatch.setattr(plan, 'describe_devices', lambda topology: jax.devices()[:4])
  assert aot.main([*arguments]) == 1
  captured = capsys.readouterr()
  assert captured.err.startswith('error: ') and sentence in captured.err
  assert captured.err.count('\n') == 1 and not captured.out


def plan_on_a_mesh(capsys, *flags):
  """Return the plan of a small ViT on a mesh of 2 x 4 devices of a TPU slice."""
  pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install 'vit_jax[aot]'")
  arguments = [
    '--config=configs/vit_b16.py',
    '--config.model=ViT-Ti/16',
    '--config.representation_size=0',
    '--config.parallel=mesh',
    '--config.mesh=2,4',
    '--json',
    *flags,
  ]
  assert aot.main(arguments) == 0
  return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_compiles_for_a_tpu_slice(capsys):
  plan = plan_on_a_mesh(
    capsys,
    '--topology=v5e:2x4',
    '--config.num_layers=3',
    '--config.scan=True',
    '--config.batch_size=64',
  )
  assert plan['fits'] and plan['chips'] == 8 and plan['mesh'] == [2, 4]
  assert plan['devices'] == 8
  count = plan['parameters']
  assert plan['memory']['parameters'] == pytest.approx(count * 4 / 4, rel=0.05)
  # The parameters are gathered in bfloat16 for the forward and the backward pass.
  gathered = plan['collectives']['all-gather']['bytes']
  assert count * 2 * 3 / 4 * 0.5 < gathered < 2 * count * 2 * 3 / 4 * 1.5
  assert plan['unknown_loops'] == 0 and plan['bound'] in plan['roofline']
  assert plan['seconds'] == max(plan['roofline'].values())
  assert plan['vector_operations'] > 0 and plan['custom_kernels'] == 0
  assert plan['estimated_cycles'] > 0
  assert plan['steps'] == round(300 * 1_281_167 / 64)


@pytest.mark.slow
def test_a_chip_of_tpu7x_is_two_devices(capsys):
  plan = plan_on_a_mesh(
    capsys,
    '--topology=tpu7x:2x2x1',
    '--config.num_layers=1',
    '--config.image_size=32',
    '--config.batch_size=16',
  )
  assert (plan['chips'], plan['devices'], plan['mesh']) == (4, 8, [2, 4])
  assert plan['available'] == 96 * 2**30 and plan['unknown_loops'] == 0


@pytest.mark.slow
def test_says_what_to_change_when_a_slice_is_too_small(capsys):
  pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install 'vit_jax[aot]'")
  assert (
    aot.main(
      [
        '--config=configs/pretrain.py:ViT-H/14',
        '--topology=v5e:2x2',
        '--config.scan=True',
        '--config.num_layers=16',
        '--config.batch_size=1024',
      ]
    )
    == 2
  )
  out = capsys.readouterr().out
  assert (
    'The step does not fit: its temporaries alone need ' in out
    and 'of 15.75GiB on each chip.' in out
  )
  assert (
    '--config.parallel=mesh --config.mesh=2,2: parameters and moments take 1.78 instead of 3.56 GiB'
  ) in out


@pytest.mark.slow
def test_compiles_for_gpus(capsys):
  pytest.importorskip(
    'jax_plugins.xla_cuda12', reason="needs the CUDA compiler: pip install 'vit_jax[cuda]'"
  )
  arguments = [
    '--config=configs/vit_b16.py',
    '--topology=2xh100:4',
    '--config.model=ViT-Ti/16',
    '--config.num_layers=3',
    '--config.scan=True',
    '--config.batch_size=64',
    '--json',
  ]
  assert aot.main(arguments) == 0
  plan = json.loads(capsys.readouterr().out)
  assert (plan['chips'], plan['mesh'], plan['kind']) == (8, [8, 1], 'H100 80GB HBM3')
  assert set(plan['collectives']) == {'all-reduce'}
  count = plan['parameters']
  assert count * 2 * 7 / 4 < plan['collectives']['all-reduce']['bytes'] < count * 4 * 7 / 4 * 1.1
  assert plan['roofline']['network'] > plan['roofline']['interconnect'] > 0
