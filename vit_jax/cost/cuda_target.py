"""Describe NVIDIA GPUs that are not attached to the CUDA compiler."""

import importlib.util
from typing import NamedTuple

import jax

from vit_jax.errors import InputError
from vit_jax.parallel.devices import DEVICES


class Gpu(NamedTuple):
  """Properties of a kind of GPU that the compiler asks for, from NVIDIA's white papers."""

  kind: str  # as JAX names the devices
  capability: tuple[int, int]
  cores: int  # streaming multiprocessors
  lanes: int  # float32 units per core
  shared_memory: int  # KiB per core, of which a block may use all but one
  cache: int  # MiB, second level
  clock: float  # GHz


GPUS = {
  'a100': Gpu('A100-SXM4-80GB', (8, 0), 108, 64, 164, 40, 1.41),
  'h100': Gpu('H100 80GB HBM3', (9, 0), 132, 128, 228, 50, 1.98),
  'h200': Gpu('H200', (9, 0), 132, 128, 228, 50, 1.98),
}
# Without a GPU, the compiler cannot time kernels, and its guess of Triton's tile sizes fails for
# some of them.
COMPILER_OPTIONS = {'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False}


def describe_gpus(name: str, per_node: int, nodes: int) -> list[jax.Device]:
  """Return devices to lower and compile for. Nothing can run on them.

  Args:
    name: a key of GPUS.
    per_node: number of GPUs in each node.
    nodes: number of nodes.

  Raises:
    InputError: the CUDA compiler is not installed.
  """
  if importlib.util.find_spec('jax_plugins') is None or not any(
    importlib.util.find_spec(f'jax_plugins.xla_cuda{n}') for n in (12, 13)
  ):
    raise InputError(
      'The CUDA compiler is not installed. Install it with '
      "`pip install 'vit_jax[cuda]'`. It compiles without a GPU."
    )
  from jax.experimental import topologies

  shape = f'1x{nodes}x{per_node}'
  target = target_config(GPUS[name])
  return topologies.get_topology_desc(shape, 'cuda', target_config=target, topology=shape).devices


def target_config(gpu: Gpu) -> str:
  """Return the GPU as the text of XLA's GpuTargetConfigProto."""
  device = DEVICES[gpu.kind]
  return f"""
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "NVIDIA {gpu.kind}"
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {int(device.memory)}
  memory_bandwidth: {int(device.bandwidth)}
  l2_cache_size: {gpu.cache * 2**20}
  shared_memory_per_core: {gpu.shared_memory * 2**10}
  shared_memory_per_block_optin: {(gpu.shared_memory - 1) * 2**10}
  shared_memory_per_block: {48 * 2**10}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
}}"""
