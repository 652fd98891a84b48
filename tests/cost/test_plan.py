"""A plan as JSON, whose keys other programs read."""

import json

from tests.helpers.plans import FIT, GIB, MISFIT, make_plan

FIELDS = {
  'model': 'ViT-H/14',
  'batch_size': 4096,
  'parallel': 'pmap',
  'remat': 'full',
  'scan': True,
  'accumulate': 2,
  'moment_dtype': 'float32',
  'topology': 'v5e:16x16',
  'chips': 256,
  'devices': 256,
  'kind': 'TPU v5 lite',
  'steps': 1000,
  'images': 4_096_000,
  'mesh': [256, 1],
  'available': 16 * GIB,
  'parameters': 632_045_800,
}


def test_a_plan_that_fits():
  plan = make_plan(FIT)
  assert plan.fits
  assert json.loads(json.dumps(plan.to_json())) == {
    **FIELDS,
    'fits': True,
    'compile_seconds': 92.4,
    'memory': {
      'parameters': GIB,
      'moments': 2 * GIB,
      'rest_of_the_state': 0,
      'batch': 0,
      'padding': 0,
      'temporaries': 6 * GIB,
      'outputs': 0,
      'code': 0,
      'total': 9 * GIB,
    },
    'collectives': {'all-reduce': {'channels': 4, 'times': 35, 'bytes': GIB // 2}},
    'memory_traffic': 40_000_000_000,
    'unknown_loops': 0,
    'vector_operations': 1.2e11,
    'custom_kernels': 0,
    'estimated_cycles': 200_000_000,
    'flops': 3e15,
    'computed_flops': 4e15,
    'roofline': {
      'compute': 0.08,
      'vector': 0.02,
      'memory': 0.05,
      'interconnect': 0.01,
      'network': 0.0,
    },
    'seconds': 0.08,
    'bound': 'compute',
    'mfu': 0.4,
    'mfu_bound': 0.75,
    'seconds_at_mfu': 0.15,
  }


def test_a_plan_that_does_not_fit():
  plan = make_plan(MISFIT)
  assert not plan.fits
  assert json.loads(json.dumps(plan.to_json())) == {
    **FIELDS,
    'fits': False,
    'why': 'it needs 20.1GiB of 15.8GiB',
    'memory': {'parameters': GIB, 'moments': 2 * GIB},
    'advice': ['--config.remat=dots: less'],
  }
