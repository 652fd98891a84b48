"""Trace cuDNN's attention on machines without a GPU."""

import pytest

from vit_jax.models import dot_product_attention


def fake_cudnn(monkeypatch):
  """Let JAX and the model take this machine for one with a GPU and cuDNN. Nothing can run there."""
  fused = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')
  monkeypatch.setattr(dot_product_attention, '_has_cudnn', lambda: True)
  monkeypatch.setattr(fused, 'check_cudnn_version', lambda: 91900)
  monkeypatch.setattr(fused, 'check_compute_capability', lambda capability: True)
  monkeypatch.setattr(fused, 'is_cuda_compute_capability_equal', lambda capability: False)
