"""What a run will need on devices that are not here: arithmetic, sentences, real compiles."""

import json

import jax
import pytest

from vit_jax.config.fields import default_config
from vit_jax.config.flags import parse_config
from vit_jax.config.recipes import pretrain
from vit_jax.cost import compile_step
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.tools import aot as tool
from vit_jax.training.setup import make_training

GIB = 2**30


def config(model='ViT-Ti/8', **fields):
  c = default_config()
  c.update(
    dict(
      model=model,
      image_size=32,
      batch_size=256,
      dropout=0.1,
      dataset='imagenet2012',
      scan=True,
      num_layers=3,
    )
    | fields
  )
  return c


def make(c):
  """The train step of a config and the shapes of its state."""
  _, _, init, step = make_training(c, 1000, 1000)
  return step, jax.eval_shape(init)


def compiled_here(c, mesh):
  partitioner, (step, state) = MeshPartitioner(c.batch_size, c.accumulate, mesh), make(c)
  return (
    state,
    partitioner,
    compile_step.compile_step(partitioner, step, state, c.image_size, c.batch_size, 1e12, {}),
  )


def test_every_byte_has_its_kind():
  c = config(moment_dtype='bfloat16')
  state, partitioner, (compiled, memory, _) = compiled_here(c, (2, 4))
  count = sum(x.size for x in jax.tree.leaves(state.params))
  # Each array's share of the fsdp axis, if one of its sides can be cut by 4.
  assert count * 4 / 4 <= memory.parameters < count * 4 / 4 * 1.05
  assert memory.moments == memory.parameters * 3 // 2
  assert memory.rest_of_the_state == 4 + 2 * 4  # our step, and those of optax
  assert memory.batch == 256 // 8 * (32 * 32 * 3 + 4 + 1)
  analysis = compiled.memory_analysis()
  assert memory.padding == 0 and memory.temporaries == analysis.temp_size_in_bytes
  assert memory.total == sum(memory) and memory.outputs < 4096
  assert compile_step.state_bytes(partitioner.like(state)) == memory[:3]


def test_what_does_not_fit_is_refused():
  c = config()
  (step, state), partitioner = make(c), MeshPartitioner(c.batch_size, mesh=(8, 1))
  with pytest.raises(compile_step.OutOfMemory, match=r'^the step needs \d\.\d\d of 0.01 GiB$'):
    compile_step.compile_step(partitioner, step, state, 32, 256, GIB / 100, {})


def test_state_of_h14_per_device_is_one_over_fsdp():
  _, state = make(pretrain('ViT-H/14'))
  for fsdp in (1, 2, 4, 8):
    parameters, moments, _ = compile_step.state_bytes(
      MeshPartitioner(4096, mesh=(0, fsdp)).like(state)
    )
    assert parameters == 632_045_800 * 4 // fsdp + 1280 * 1281 * 4 // fsdp
    assert moments == 2 * parameters


@pytest.mark.parametrize(
  'message, words',
  [
    (
      'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
      'Used 20.14G of 15.75G hbm. Exceeded hbm capacity by 4.39G.\n\nTotal hbm usage >= 20.39G:',
      'the step needs 20.14GiB of 15.75GiB',
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries '
      '(29.88G) exceeds available HBM (15.75G).',
      'its temporaries alone need 29.88GiB of 15.75GiB',
    ),
    ('RESOURCE_EXHAUSTED: something else\nmore', 'RESOURCE_EXHAUSTED: something else'),
  ],
)
def test_the_compilers_words_are_shortened(message, words):
  assert compile_step._shorten(message) == words


def test_advice_names_flags():
  found = compile_step.advice(
    mesh=(256, 1),
    state=7 * GIB,
    available=16 * GIB,
    remat='none',
    scan=False,
    batch_size=4096,
    accumulate=1,
    moment_dtype='float32',
  )
  assert [line.split(':')[0] for line in found] == [
    '--config.parallel=mesh --config.mesh=64,4',
    '--config.remat=dots',
    '--config.remat=full',
    '--config.scan=True',
    '--config.accumulate=2',
    '--config.moment_dtype=bfloat16',
    '--config.batch_size=2048, which is another recipe',
    'a larger slice',
  ]
  assert 'take 1.75 instead of 7.00 GiB' in found[0]
  assert 'passes of 8 images on each chip instead of 16' in found[4]
  assert compile_step.advice(
    mesh=(2, 128),
    state=GIB // 10,
    available=16 * GIB,
    remat='full',
    scan=True,
    batch_size=4096,
    accumulate=16,
    moment_dtype='bfloat16',
  ) == ['--config.batch_size=2048, which is another recipe', 'a larger slice']


@pytest.mark.parametrize(
  'arguments, sentence',
  [
    (['--config=configs/vit_b16.py', '--topology=v5e:3x5'], '--topology=v5e:3x5 is no slice'),
    (
      ['--config=configs/vit_b16.py', '--config.batchsize=3'],
      "Unknown config field 'batchsize'. Did you mean 'batch_size'?",
    ),
    (['--config=configs/vit_b16.py', '--topolgy=v5e:2x2'], "Unknown command line flag 'topolgy'"),
    (['--config=configs/vit_b16.py', '--mfu=2'], 'flag --mfu=2: 2.0 is not a number'),
    (['--config=configs/none.py'], 'Config file configs/none.py does not exist. Check the path.'),
    ([], 'No config. Give one with --config=FILE'),
    (
      ['--config=configs/vit_b16.py', 'v5e:2x2'],
      "Unknown argument 'v5e:2x2'. Flags look like --config.batch_size=256.",
    ),
    (
      ['--config=configs/vit_b16.py', '--config.dataset=mine', '--config.data_dir=/nowhere'],
      'or give --num_images and --config.num_classes',
    ),
    (['--config=configs/vit_b16.py', '--config.remat=some'], "unknown remat 'some'"),
  ],
)
def test_errors_are_one_sentence(arguments, sentence, capsys, monkeypatch):
  monkeypatch.setattr(tool, 'describe_devices', lambda topology: jax.devices()[:4])
  assert tool.main([*arguments]) == 1
  captured = capsys.readouterr()
  assert captured.err.startswith('error: ') and sentence in captured.err
  assert captured.err.count('\n') == 1 and not captured.out


def test_flags_set_fields():
  values = tool._flags()
  c = parse_config(
    values,
    [
      'aot',
      '--config=configs/vit_b16.py:jft',
      '--config.mesh=4,2',
      '--config.scan=True',
      '--topology=v4:2x2x1',
    ],
  )
  assert (c.dataset, c.mesh, c.scan, values.topology) == ('jft_300m', (4, 2), True, 'v4:2x2x1')


def test_images_and_classes_of_data_that_is_not_here():
  assert tool.size_of_data(pretrain('ViT-B/16', 'jft'), 0) == (303_000_000, 18_291)
  assert tool.size_of_data(pretrain('ViT-B/16'), 1000) == (1000, 1000)
  assert tool.size_of_data(config(dataset='mine', num_classes=7), 99) == (99, 7)


FOUND = dict(
  config='configs/vit_h14.py',
  model='ViT-H/14',
  batch_size=4096,
  parallel='pmap',
  remat='full',
  scan=True,
  accumulate=2,
  moment_dtype='float32',
  topology='v5e:16x16',
  chips=256,
  kind='TPU v5 lite',
  steps=1000,
  images=4_096_000,
  mesh=[256, 1],
  available=16 * GIB,
  parameters=632_045_800,
)


def test_report():
  text = tool.tell(
    FOUND
    | dict(
      fits=True,
      compile_seconds=92.4,
      memory=dict(parameters=GIB, rest_of_the_state=0, total=9 * GIB),
      flops=3e15,
      computed_flops=4e15,
      collectives={'all-reduce': dict(channels=4, times=35, bytes=GIB // 2)},
      memory_traffic=4e10,
      unknown_loops=0,
      roofline=dict(compute=0.08, memory=0.05),
      seconds=0.08,
      bound='compute',
      mfu=0.4,
      mfu_bound=0.75,
      seconds_at_mfu=0.15,
    )
  )
  assert text.splitlines() == [
    'configs/vit_h14.py: ViT-H/14, 632,045,800 parameters; batch_size=4096 remat=full scan=True '
    'accumulate=2 moment_dtype=float32',
    'v5e:16x16: 256 x TPU v5 lite, a mesh of 256 (data) x 1 (fsdp); parallel=pmap is the same '
    'data parallelism',
    '',
    'fits: 9.00 of 16.00 GiB on each chip (compiled in 92 s)',
    '  parameters           1.000 GiB',
    '  rest of the state    0.000 GiB',
    '',
    'collectives of a step   channels   times   received by each chip',
    '  all-reduce                   4      35           0.500 GiB',
    '',
    'a step: 3.000e+15 FLOPs of the model and 33% more for remat; 40.0 GB to and from the memory '
    'of each chip',
    'seconds at least: compute 0.080, memory 0.050; bound by compute, MFU at most 75%',
    '',
    'the run: 1,000 steps, 1 epochs of 4,096,000 images',
    '  at the roofline, a bound that no run reaches: 0.080 s a step, 0.00 days, 6 chip-hours',
    '  at an MFU of 40%: 0.150 s a step, 0.00 days, 11 chip-hours',
  ]


def test_report_of_what_does_not_fit():
  text = tool.tell(
    FOUND
    | dict(
      fits=False,
      why='the step needs 20.1GiB of 15.8GiB',
      memory=dict(parameters=GIB, moments=2 * GIB),
      advice=['--config.remat=dots: less'],
    )
  )
  assert text.splitlines()[3:] == [
    'does not fit: the step needs 20.1GiB of 15.8GiB on each chip',
    'of which parameters and moments are 3.00 GiB',
    '',
    'what to change, one or more of:',
    '  --config.remat=dots: less',
  ]


@pytest.mark.slow
def test_compiles_for_a_tpu_slice(capsys):
  pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install 'vit_jax[aot]'")
  arguments = [
    '--config=configs/vit_b16.py',
    '--topology=v5e:2x4',
    '--config.model=ViT-Ti/16',
    '--config.num_layers=3',
    '--config.representation_size=0',
    '--config.scan=True',
    '--config.batch_size=64',
    '--config.parallel=mesh',
    '--config.mesh=2,4',
    '--json',
  ]
  assert tool.main(arguments) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['fits'] and found['chips'] == 8 and found['mesh'] == [2, 4]
  count = found['parameters']
  assert found['memory']['parameters'] == pytest.approx(count * 4 / 4, rel=0.05)
  # The parameters are gathered in bfloat16 for the forward and the backward pass.
  gathered = found['collectives']['all-gather']['bytes']
  assert count * 2 * 3 / 4 * 0.5 < gathered < 2 * count * 2 * 3 / 4 * 1.5
  assert found['unknown_loops'] == 0 and found['bound'] in found['roofline']
  assert found['seconds'] == max(found['roofline'].values())
  assert found['steps'] == round(300 * 1_281_167 / 64)


@pytest.mark.slow
def test_says_what_to_change_when_a_slice_is_too_small(capsys):
  pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install 'vit_jax[aot]'")
  assert (
    tool.main(
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
  assert 'does not fit: ' in out and 'of 15.75GiB on each chip' in out
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
  assert tool.main(arguments) == 0
  found = json.loads(capsys.readouterr().out)
  assert (found['chips'], found['mesh'], found['kind']) == (8, [8, 1], 'H100 80GB HBM3')
  assert set(found['collectives']) == {'all-reduce'}
  count = found['parameters']
  assert count * 2 * 7 / 4 < found['collectives']['all-reduce']['bytes'] < count * 4 * 7 / 4 * 1.1
  assert found['roofline']['network'] > found['roofline']['interconnect'] > 0
