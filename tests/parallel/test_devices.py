import pytest

from vit_jax.parallel.devices import DEVICES, find_device, find_interconnect


def test_interconnects():
  assert find_interconnect('TPU v5 lite') == (50e9, 3.125e9, None)
  assert find_interconnect('TPU v4').network is None
  assert find_interconnect('TPU7x') == (100e9, 12.5e9, 600e9)
  assert find_interconnect('NVIDIA H100 80GB HBM3') == (450e9, 50e9, None)
  assert find_interconnect('cpu') is None


def test_a_chip_of_two_devices():
  """A TPU v3 chip has 123 TFLOP/s, 32 GiB and 900 GB/s, and JAX counts it as two devices."""
  assert find_device('TPU v3') == (61.5e12, 16 * 2**30, 450e9, 2048 * 0.94e9)
  assert find_device('TPU7x')[:3] == (1153.5e12, 96 * 2**30, 3690e9)


def test_vendor_prefixes():
  assert find_device('Tesla T4') is find_device('NVIDIA T4') is DEVICES['T4']


def test_devices_are_found_as_jax_spells_them():
  flops = lambda kind: find_device(kind).flops / 1e12
  assert flops('TPU v4') == 275 and flops('TPU v5 lite') == 197 and flops('TPU v3') == 61.5
  assert flops('NVIDIA A100-SXM4-80GB') == 312 and flops('NVIDIA H100 80GB HBM3') == 989
  assert flops('Tesla T4') == 65 and flops('NVIDIA H100 PCIe') == 756
  assert find_device('TPU v5 lite').memory == 16 * 2**30
  assert find_device('NVIDIA H200') == (989e12, 141e9, 4.8e12, 67e12)


def test_an_unknown_device_has_no_peak():
  assert find_device('cpu') is None
  assert find_device('NVIDIA A100-SXM4-40GB MIG 3g.20gb') is None


def test_vector_rates():
  """A core has 8 x 128 lanes, of two ALUs up to v4 and four from v5 on."""
  vector = lambda kind: find_device(kind).vector
  assert vector('TPU v4') == 2 * 1024 * 2 * 1.05e9  # two cores are one device
  assert vector('TPU v5 lite') == 1024 * 4 * 1.5e9
  assert vector('TPU v5') == 2 * 1024 * 4 * 1.75e9
  assert vector('TPU7x') == pytest.approx(1024 * 4 * 2.2e9)
  assert vector('NVIDIA A100-SXM4-80GB') == 19.5e12


@pytest.mark.parametrize(
  'kind, alus, products',
  [
    ('TPU v4', 4, 8 * 128**2),
    ('TPU v5 lite', 4, 4 * 128**2),
    ('TPU v5', 8, 8 * 128**2),
    ('TPU v6 lite', 4, 4 * 256**2),
    ('TPU7x', 4, 4 * 256**2),
  ],
)
def test_vector_and_matrix_units_have_one_clock(kind, alus, products):
  """A device has `alus` vector ALUs per lane and does `products` multiply-adds per cycle."""
  device = find_device(kind)
  assert device.flops / (2 * products) == pytest.approx(device.vector / (1024 * alus), rel=0.01)
