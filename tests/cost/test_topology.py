"""Names of slices and nodes: how many chips they have, and how the chips are connected."""

import importlib.util
from types import SimpleNamespace

import jax
import pytest

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
    ('tpu7x:2x2x1', 4, 'TPU7x', (False,) * 3),
    ('2xtpu7x:4x4x8', 256, 'TPU7x', (True,) * 3),
    ('h100:8', 8, 'H100 80GB HBM3', (True,)),
    ('4xa100:8', 32, 'A100-SXM4-80GB', (True,)),
  ],
)
def test_names(word, chips, kind, rings):
  topology = parse_topology(word)
  assert (topology.num_chips, topology.kind) == (chips, kind)
  if len(topology.shape) > 1:
    assert topology.rings == rings
  assert topology.num_devices == chips * (2 if kind == 'TPU7x' else 1)
  assert find_device(kind) and find_interconnect(kind)


@pytest.mark.parametrize(
  'word', ['v9:4', 'v5e:', 'v5e', '', 'v5e:4x', '0xv5e:4x4', 'tpu', 'V5E:4x4']
)
def test_an_unknown_name_lists_the_kinds(word):
  with pytest.raises(InputError) as e:
    parse_topology(word)
  assert str(e.value) == (
    f'Unknown topology {word!r}. Give a kind of device (v4, v5e, v5p, v6e, tpu7x, a100, h100, '
    'h200) and a shape: v5e:16x16 is a slice of 256 chips, v5p:4x4x8 a slice of 128, 2xv5e:16x16 '
    'two slices, and h100:8 a node of 8 GPUs.'
  )


@pytest.mark.parametrize(
  'word, sentence',
  [
    (
      'v5e:3x5',
      "v5e has no slice 'v5e:3x5'. Available: v5e:2x2, v5e:2x4, v5e:4x4, v5e:4x8, v5e:8x8, "
      'v5e:8x16, v5e:16x16.',
    ),
    (
      'v6e:256',
      "v6e has no slice 'v6e:256'. Available: v6e:2x2, v6e:2x4, v6e:4x4, v6e:4x8, v6e:8x8, "
      'v6e:8x16, v6e:16x16.',
    ),
    (
      'v5p:8x4x4',
      "v5p has no slice 'v5p:8x4x4'. Available: v5p:2x2x1, v5p:2x2x2, v5p:2x2x4, v5p:2x4x4, and "
      'v5p:AxBxC with multiples of 4, A <= B <= C, up to 6144 chips.',
    ),
    (
      'v4:16x16x32',
      "v4 has no slice 'v4:16x16x32'. Available: v4:2x2x1, v4:2x2x2, v4:2x2x4, v4:2x4x4, and "
      'v4:AxBxC with multiples of 4, A <= B <= C, up to 4096 chips.',
    ),
    (
      'tpu7x:4x4',
      "tpu7x has no slice 'tpu7x:4x4'. Available: tpu7x:2x2x1, tpu7x:2x2x2, tpu7x:2x2x4, "
      'tpu7x:2x4x4, and tpu7x:AxBxC with multiples of 4, A <= B <= C, up to 9216 chips.',
    ),
    ('h100:6', "h100 has no node 'h100:6'. Available: h100:1, h100:2, h100:4, h100:8."),
  ],
)
def test_shapes_that_do_not_exist(word, sentence):
  with pytest.raises(InputError) as e:
    parse_topology(word)
  assert str(e.value) == sentence


def row(axis, n, start=0):
  """Return the devices along an axis of a 2-D slice."""
  return [
    SimpleNamespace(coords=[start + i if a == axis else 0 for a in range(3)]) for i in range(n)
  ]


def test_links_of_a_group():
  whole = [SimpleNamespace(coords=[x, y, 0]) for x in range(16) for y in range(16)]
  v5e = parse_topology('v5e:16x16')
  assert v5e.links(row(0, 16)) == v5e.links(row(1, 16)) == 2  # a ring
  assert v5e.links(row(0, 4)) == 1  # a row, whose last chip has one link
  assert v5e.links(whole) == 4
  assert parse_topology('v5e:8x8').links(row(1, 8)) == 1
  assert parse_topology('v5p:4x4x4').links(row(2, 4)) == 2
  assert parse_topology('v5p:2x4x4').links(row(2, 4)) == 1
  assert parse_topology('h100:8').links(row(0, 8)) == 1


def test_chips_of_two_devices():
  """A chip of TPU7x is two devices at one place of the torus."""
  on_chip = lambda x: [SimpleNamespace(coords=[x, 0, 0], core_on_chip=core) for core in (0, 1)]
  topology = parse_topology('2xtpu7x:2x2x1')
  assert topology.count_chips(on_chip(0)) == 1
  assert topology.count_chips([*on_chip(0), *on_chip(1)]) == 2
  assert topology.count_chips([on_chip(0)[0], on_chip(1)[1]]) == 2
  twin = SimpleNamespace(coords=[0, 0, 0], slice_index=1)  # the same place in the other slice
  assert topology.count_chips([*on_chip(0), twin]) == 2
  assert parse_topology('h100:8').count_chips(on_chip(0)) == 2


def test_an_old_compiler_is_named(monkeypatch):
  pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install 'vit_jax[aot]'")
  from jax.experimental import topologies

  def unknown(**_):
    raise jax.errors.JaxRuntimeError('INVALID_ARGUMENT: Invalid TPU external name: TPU7x')

  monkeypatch.setattr(topologies, 'get_topology_desc', unknown)
  monkeypatch.setattr('vit_jax.cost.topology.version', lambda name: '0.0.20')
  with pytest.raises(InputError) as e:
    describe_devices(parse_topology('tpu7x:2x2x1'))
  assert str(e.value) == (
    'The TPU compiler does not know tpu7x, because libtpu 0.0.20 is too old. Install a newer one '
    "with `pip install -U 'vit_jax[aot]'`."
  )


def test_the_compilers_are_asked_for_where_they_are_missing(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError) as e:
    describe_devices(Topology('v5e', (2, 2)))
  assert str(e.value) == (
    "The TPU compiler is not installed. Install it with `pip install 'vit_jax[aot]'`."
  )
  with pytest.raises(InputError) as e:
    describe_devices(Topology('h100', (8,)))
  assert str(e.value) == (
    "The CUDA compiler is not installed. Install it with `pip install 'vit_jax[cuda]'`. It "
    'compiles without a GPU.'
  )


@pytest.mark.parametrize(
  'word',
  ['v4:4x4x4', 'v5e:2x2', 'v5p:2x2x4', 'v6e:16x16', '2xv5e:4x4', 'tpu7x:2x2x4', '2xtpu7x:2x2x1'],
)
def test_devices_of_the_tpu_compiler(word):
  pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install 'vit_jax[aot]'")
  topology = parse_topology(word)
  devices = describe_devices(topology)
  assert len(devices) == topology.num_devices
  assert topology.count_chips(devices) == topology.num_chips
  assert {d.device_kind for d in devices} == {topology.kind}
  assert {topology.slice_of(d) for d in devices} == set(range(topology.num_slices))
  assert tuple(1 + max(d.coords[i] for d in devices) for i in range(len(topology.shape))) == (
    topology.shape
  )
