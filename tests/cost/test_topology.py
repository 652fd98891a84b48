"""Words for slices and nodes: how many chips, how they are joined, and what is no such word."""

import importlib.util
from types import SimpleNamespace

import pytest

from vit_jax.cost.cuda_target import GPUS, target_config
from vit_jax.cost.topology import Topology, describe_devices, parse_topology
from vit_jax.errors import InputError
from vit_jax.parallel.devices import find_device, find_interconnect


@pytest.mark.parametrize(
  'word, chips, kind, rings',
  [
    ('v5e:2x2', 4, 'TPU v5 lite', (False, False)),
    ('v5e:8x16', 128, 'TPU v5 lite', (False, True)),
    ('v5e:16x16', 256, 'TPU v5 lite', (True, True)),
    ('v6e:4x8', 32, 'TPU v6 lite', (False, False)),
    ('v4:2x2x1', 4, 'TPU v4', (False,) * 3),
    ('v4:8x8x8', 512, 'TPU v4', (True,) * 3),
    ('v5p:2x4x4', 32, 'TPU v5', (False,) * 3),
    ('v5p:4x4x8', 128, 'TPU v5', (True,) * 3),
    ('2xv5e:16x16', 512, 'TPU v5 lite', (True, True)),
    ('h100:8', 8, 'H100 80GB HBM3', (True,)),
    ('4xa100:8', 32, 'A100-SXM4-80GB', (True,)),
  ],
)
def test_words(word, chips, kind, rings):
  topology = parse_topology(word)
  assert (topology.num_chips, topology.kind) == (chips, kind)
  if 'v' in word:
    assert topology.rings == rings
  assert find_device(kind) and find_interconnect(kind)


@pytest.mark.parametrize(
  'word', ['v9:4', 'v5e:', 'v5e', '', 'v5e:4x', '0xv5e:4x4', 'tpu', 'V5E:4x4']
)
def test_unknown_words_are_told_what_there_is(word):
  with pytest.raises(InputError) as e:
    parse_topology(word)
  assert str(e.value) == (
    f'--topology={word} is not known; there are v4, v5e, v5p, v6e, a100, h100, h200: v5e:16x16 '
    'is a slice of 256 chips, v5p:4x4x8 one of 128, 2xv5e:16x16 two slices, h100:8 a node of 8 '
    'GPUs'
  )


@pytest.mark.parametrize(
  'word, sentence',
  [
    (
      'v5e:3x5',
      'is no slice of v5e; there are v5e:2x2, v5e:2x4, v5e:4x4, v5e:4x8, v5e:8x8, '
      'v5e:8x16, v5e:16x16',
    ),
    (
      'v6e:256',
      'is no slice of v6e; there are v6e:2x2, v6e:2x4, v6e:4x4, v6e:4x8, v6e:8x8, '
      'v6e:8x16, v6e:16x16',
    ),
    (
      'v5p:8x4x4',
      'is no slice of v5p; there are v5p:2x2x1, v5p:2x2x2, v5p:2x2x4, v5p:2x4x4, and '
      'v5p:AxBxC of multiples of 4, A <= B <= C, up to 6144 chips',
    ),
    (
      'v4:16x16x32',
      'is no slice of v4; there are v4:2x2x1, v4:2x2x2, v4:2x2x4, v4:2x4x4, and '
      'v4:AxBxC of multiples of 4, A <= B <= C, up to 4096 chips',
    ),
    ('h100:6', 'is no node of h100; there are h100:1, h100:2, h100:4, h100:8'),
  ],
)
def test_shapes_that_do_not_exist(word, sentence):
  with pytest.raises(InputError) as e:
    parse_topology(word)
  assert str(e.value) == f'--topology={word} {sentence}'


def row(axis, n, start=0):
  """Devices along an axis of a 2-D slice."""
  return [
    SimpleNamespace(coords=[start + i if a == axis else 0 for a in range(3)]) for i in range(n)
  ]


def test_links_of_a_group():
  whole = [SimpleNamespace(coords=[x, y, 0]) for x in range(16) for y in range(16)]
  v5e = parse_topology('v5e:16x16')
  assert v5e.links(row(0, 16)) == v5e.links(row(1, 16)) == 2  # a ring
  assert v5e.links(row(0, 4)) == 1  # a row, at its end
  assert v5e.links(whole) == 4
  assert parse_topology('v5e:8x8').links(row(1, 8)) == 1
  assert parse_topology('v5p:4x4x4').links(row(2, 4)) == 2
  assert parse_topology('v5p:2x4x4').links(row(2, 4)) == 1
  assert parse_topology('h100:8').links(row(0, 8)) == 1


def test_the_compilers_are_asked_for_where_they_are_missing(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r"^the TPU compiler is not installed: pip install 'vit_jax"):
    describe_devices(Topology('v5e', (2, 2)))
  with pytest.raises(InputError, match=r"^the CUDA compiler is not installed: pip install 'vit_j"):
    describe_devices(Topology('h100', (8,)))


@pytest.mark.parametrize('word', ['v4:4x4x4', 'v5e:2x2', 'v5p:2x2x4', 'v6e:16x16', '2xv5e:4x4'])
def test_devices_of_the_tpu_compiler(word):
  pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install 'vit_jax[aot]'")
  topology = parse_topology(word)
  devices = describe_devices(topology)
  assert len(devices) == topology.num_chips
  assert {d.device_kind for d in devices} == {topology.kind}
  assert {topology.slice_of(d) for d in devices} == set(range(topology.num_slices))
  assert tuple(1 + max(d.coords[i] for d in devices) for i in range(len(topology.shape))) == (
    topology.shape
  )


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
