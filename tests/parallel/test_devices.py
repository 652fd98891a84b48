from vit_jax.parallel.devices import DEVICES, find_device, find_interconnect


def test_interconnects():
  assert find_interconnect('TPU v5 lite') == (50e9, 3.125e9)
  assert find_interconnect('TPU v4').network is None
  assert find_interconnect('NVIDIA H100 80GB HBM3') == (450e9, 50e9)
  assert find_interconnect('cpu') is None


def test_a_chip_of_two_devices():
  """A TPU v3 chip has 123 TFLOP/s, 32 GiB and 900 GB/s, and JAX counts it as two devices."""
  assert find_device('TPU v3') == (61.5e12, 16 * 2**30, 450e9)


def test_vendor_prefixes():
  assert find_device('Tesla T4') is find_device('NVIDIA T4') is DEVICES['T4']


def test_devices_are_found_as_jax_spells_them():
  flops = lambda kind: find_device(kind).flops / 1e12
  assert flops('TPU v4') == 275 and flops('TPU v5 lite') == 197 and flops('TPU v3') == 61.5
  assert flops('NVIDIA A100-SXM4-80GB') == 312 and flops('NVIDIA H100 80GB HBM3') == 989
  assert flops('Tesla T4') == 65 and flops('NVIDIA H100 PCIe') == 756
  assert find_device('TPU v5 lite').memory == 16 * 2**30
  assert find_device('NVIDIA H200') == (989e12, 141e9, 4.8e12)


def test_an_unknown_device_has_no_peak():
  assert find_device('cpu') is None
  assert find_device('NVIDIA A100-SXM4-40GB MIG 3g.20gb') is None
