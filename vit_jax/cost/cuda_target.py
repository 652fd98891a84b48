"""NVIDIA GPUs that are not there, as the CUDA compiler wants them described."""

import importlib.util
from typing import NamedTuple

import jax

from vit_jax.errors import InputError
from vit_jax.parallel.devices import find_device


class Gpu(NamedTuple):
  """What the compiler asks about a kind of GPU; from NVIDIA's architecture white papers."""

  kind: str  # as jax names the devices
  capability: tuple[int, int]
  cores: int  # streaming multiprocessors
  lanes: int  # float32 units in each
  shared_memory: int  # KiB in each; a block may have all but one
  cache: int  # MiB, the second level
  clock: float  # GHz


GPUS = {
  'a100': Gpu('A100-SXM4-80GB', (8, 0), 108, 64, 164, 40, 1.41),
  'h100': Gpu('H100 80GB HBM3', (9, 0), 132, 128, 228, 50, 1.98),
  'h200': Gpu('H200', (9, 0), 132, 128, 228, 50, 1.98),
}
# There is no GPU to time kernels on, and the compiler's guess at Triton's tiles fails for some.
COMPILER_OPTIONS = {'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False}


def describe_gpus(name: str, per_node: int, nodes: int) -> list[jax.Device]:
  """Devices to lower and compile for.

  Args:
    name: of GPUS.
    per_node, nodes: how many.
  Raises:
    InputError: the CUDA compiler is not installed.
  """
  if importlib.util.find_spec('jax_plugins') is None or not any(
    importlib.util.find_spec(f'jax_plugins.xla_cuda{n}') for n in (12, 13)
  ):
    raise InputError(
      "the CUDA compiler is not installed: pip install 'vit_jax[cuda]' (it needs no GPU to compile)"
    )
  from jax.experimental import topologies

  shape = f'1x{nodes}x{per_node}'
  return topologies.get_topology_desc(
    shape, 'cuda', target_config=target_config(GPUS[name]), topology=shape
  ).devices


def target_config(gpu: Gpu) -> str:
  """XLA's GpuTargetConfigProto, as text."""
  device = find_device(gpu.kind)
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
