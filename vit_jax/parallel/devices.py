"""Published peak performance of devices and interconnects, by the name that JAX gives them."""

from typing import NamedTuple

_GIGA, _GIB, _TERA = 1e9, 2**30, 1e12


class Device(NamedTuple):
  """Published limits of one device, as JAX counts devices."""

  flops: float  # per second, dense matrix products in bfloat16 (float16 if it has no bfloat16)
  memory: float  # bytes
  bandwidth: float  # memory bandwidth, bytes per second
  vector: float  # arithmetic operations per second outside of matrix products, on 32-bit elements


class Interconnect(NamedTuple):
  """Published bandwidths of a chip or GPU, in bytes per second each way."""

  link: float  # TPU: to each neighbor in the torus; GPU: to the other GPUs of its node
  network: float | None  # the chip's share of its host's network; None if not published
  inside: float | None = None  # between the devices of a chip, if it has more than one


def _tpu(
  teraflops: float, gib: float, gb_per_second: float, alus: int, gigahertz: float, devices: int = 1
) -> Device:
  """Return the limits of a device from those of a chip. v2, v3 and 7x chips are two devices.

  Args:
    teraflops: bfloat16 operations per second of a chip, in 1e12.
    gib: memory of a chip.
    gb_per_second: memory bandwidth of a chip.
    alus: vector ALUs of a chip, for each of its 8 x 128 vector lanes.
    gigahertz: clock.
    devices: number of devices of a chip.
  """
  vector = 8 * 128 * alus * gigahertz * _GIGA
  limits = (teraflops * _TERA, gib * _GIB, gb_per_second * _GIGA, vector)
  return Device(*(x / devices for x in limits))


def _gpu(teraflops: float, gb: float, gb_per_second: float, float32_teraflops: float) -> Device:
  return Device(teraflops * _TERA, gb * _GIGA, gb_per_second * _GIGA, float32_teraflops * _TERA)


# Sources. TPUs: the page of each version under docs.cloud.google.com/tpu/docs. NVIDIA: data sheets;
# for A100 and later, half of the figure "with sparsity". GeForce: the GA102 and AD102 white papers,
# with float32 accumulation. V100 and T4 have float16 only.
# Vector rates of TPUs: two ALUs per lane in each core up to v4 (arXiv 2304.01433), four from v5 on
# (jax-ml.github.io/scaling-book/gpus for v5p; the compiler of libtpu 0.0.50 packs up to four
# instructions for v5e, v6e and 7x, too). The clock is the matrix units' peak rate over their
# multiply-adds per cycle. NVIDIA: float32 without Tensor Cores, a fused multiply-add as two.
DEVICES = {
  'TPU v2': _tpu(45, 16, 700, 4, 0.7, 2),
  'TPU v3': _tpu(123, 32, 900, 4, 0.94, 2),
  'TPU v4': _tpu(275, 32, 1228, 4, 1.05),
  'TPU v5 lite': _tpu(197, 16, 819, 4, 1.5),  # v5e
  'TPU v5': _tpu(459, 95, 2765, 8, 1.75),  # v5p
  'TPU v6 lite': _tpu(918, 32, 1638, 4, 1.75),  # v6e
  'TPU7x': _tpu(2307, 192, 7380, 8, 2.2, 2),
  'V100-PCIE-16GB': _gpu(112, 16, 900, 14),
  'V100-PCIE-32GB': _gpu(112, 32, 900, 14),
  'V100-SXM2-16GB': _gpu(125, 16, 900, 15.7),
  'V100-SXM2-32GB': _gpu(125, 32, 900, 15.7),
  'T4': _gpu(65, 16, 320, 8.1),
  'A100-PCIE-40GB': _gpu(312, 40, 1555, 19.5),
  'A100-SXM4-40GB': _gpu(312, 40, 1555, 19.5),
  'A100 80GB PCIe': _gpu(312, 80, 1935, 19.5),
  'A100-SXM4-80GB': _gpu(312, 80, 2039, 19.5),
  'A10': _gpu(125, 24, 600, 31.2),
  'A30': _gpu(165, 24, 933, 10.3),
  'A40': _gpu(149.7, 48, 696, 37.4),
  'RTX A6000': _gpu(154.8, 48, 768, 38.7),
  'L4': _gpu(121, 24, 300, 30.3),
  'L40': _gpu(181, 48, 864, 90.5),
  'L40S': _gpu(362, 48, 864, 91.6),
  'H100 PCIe': _gpu(756, 80, 2000, 51),
  'H100 NVL': _gpu(835, 94, 3900, 60),
  'H100 80GB HBM3': _gpu(989, 80, 3350, 67),  # SXM
  'GH200 480GB': _gpu(989, 96, 4000, 67),
  'H200 NVL': _gpu(835, 141, 4800, 60),
  'H200': _gpu(989, 141, 4800, 67),
  'B200': _gpu(2250, 180, 8000, 80),
  'GeForce RTX 3090': _gpu(71, 24, 936, 35.6),
  'GeForce RTX 4090': _gpu(165, 24, 1008, 82.6),
}


def find_device(kind: str) -> Device | None:
  """Return the limits of a `jax.Device.device_kind`, or None for CPUs and unknown devices."""
  return DEVICES.get(_short(kind))


def _short(kind: str) -> str:
  return kind.removeprefix('NVIDIA ').removeprefix('Tesla ')


# Sources. TPUs: the page of each version under docs.cloud.google.com/tpu/docs. `link` is half of a
# chip's bidirectional bandwidth divided by its ports (4 in a 2-D torus, 6 in a 3-D torus).
# `network` is the bandwidth of a pod or host divided by its chips. v4's links: arXiv 2304.01433,
# table 4. The two dies of a 7x chip are connected six times as fast as by a link. NVIDIA: `link` is
# NVLink, half of the bidirectional figure in data sheets. `network` is one network adapter per GPU,
# as in a DGX.
_INTERCONNECTS = {
  'TPU v4': Interconnect(50e9, None),
  'TPU v5 lite': Interconnect(50e9, 3.125e9),
  'TPU v5': Interconnect(100e9, 6.25e9),
  'TPU v6 lite': Interconnect(100e9, 12.5e9),
  'TPU7x': Interconnect(100e9, 12.5e9, 600e9),
  'A100-SXM4-80GB': Interconnect(300e9, 25e9),
  'H100 80GB HBM3': Interconnect(450e9, 50e9),
  'H200': Interconnect(450e9, 50e9),
}


def find_interconnect(kind: str) -> Interconnect | None:
  """Return the bandwidths of a `device_kind`, or None if they are unknown."""
  return _INTERCONNECTS.get(_short(kind))
