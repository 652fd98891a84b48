"""GPUs are described to the CUDA compiler by their published properties."""

from vit_jax.cost.cuda_target import GPUS, target_config


def test_gpus_are_described_by_their_published_figures():
  config = target_config(GPUS['h100'])
  for line in (
    'cuda_compute_capability { major: 9 minor: 0 }',
    'core_count: 132',
    'memory_bandwidth: 3350000000000',
    'shared_memory_per_block_optin: 232448',
    'device_memory_size: 80000000000',
    'l2_cache_size: 52428800',
  ):
    assert line in config
