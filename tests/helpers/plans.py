"""Plans with round numbers, and the train step of a config."""

from ml_collections import ConfigDict

from vit_jax.cost.memory import DeviceMemory, StateBytes
from vit_jax.cost.plan import Fit, Misfit, Plan
from vit_jax.cost.roofline import Roofline
from vit_jax.cost.step_speed import CollectiveTotal, StepSpeed
from vit_jax.training.setup import make_training

GIB = 2**30

SPEED = StepSpeed(
  collectives={'all-reduce': CollectiveTotal(channels=4, times=35, bytes=GIB // 2)},
  memory_traffic=40_000_000_000,
  unknown_loops=0,
  vector_operations=1.2e11,
  custom_kernels=0,
  estimated_cycles=200_000_000,
  flops=3e15,
  computed_flops=4e15,
  roofline=Roofline(compute=0.08, vector=0.02, memory=0.05, interconnect=0.01, network=0.0),
  mfu=0.4,
  mfu_bound=0.75,
  seconds_at_mfu=0.15,
)
MEMORY = DeviceMemory(GIB, 2 * GIB, 0, 0, 0, 6 * GIB, 0, 0)
FIT = Fit(compile_seconds=92.4, memory=MEMORY, speed=SPEED)
MISFIT = Misfit(
  why='it needs 20.1GiB of 15.8GiB',
  state=StateBytes(GIB, 2 * GIB, 0),
  advice=['--config.remat=dots: less'],
)


def make_plan(outcome: Fit | Misfit, **fields) -> Plan:
  """Return the plan of a run of ViT-H/14 on 256 chips."""
  defaults = dict(
    model='ViT-H/14',
    batch_size=4096,
    parallel='pmap',
    remat='full',
    scan=True,
    accumulate=2,
    moment_dtype='float32',
    topology='v5e:16x16',
    chips=256,
    devices=256,
    kind='TPU v5 lite',
    steps=1000,
    images=4_096_000,
    mesh=(256, 1),
    available=16 * GIB,
    parameters=632_045_800,
  )
  return Plan(**defaults | fields, outcome=outcome)


def step_and_state(c: ConfigDict):
  """Return the train step of a config and the shapes of its state."""
  training = make_training(c, 1000, 1000)
  return training.step, training.shapes()
