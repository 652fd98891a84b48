"""Programs are traced for the platform of the current mesh, which need not be attached."""

import types

import jax
import jax.numpy as jnp
import pytest

from tests.helpers.abstract_mesh import abstract_mesh
from vit_jax.models import placement
from vit_jax.models.linear import add_broadcast
from vit_jax.models.placement import target_platform


def test_it_is_that_of_the_mesh_or_of_the_default_device(monkeypatch):
  assert target_platform() == jax.default_backend()
  with jax.default_device(jax.devices('cpu')[0]):
    assert target_platform() == 'cpu'
  tpu = types.SimpleNamespace(platform='tpu')
  with monkeypatch.context() as patch:
    patch.setattr(placement, '_default_device', lambda: tpu)
    assert target_platform() == 'tpu'
  for platform in ('cpu', 'gpu', 'tpu'):
    with jax.sharding.use_abstract_mesh(abstract_mesh(platform)):
      assert target_platform() == platform


@pytest.mark.parametrize('platform', ['cpu', 'gpu', 'tpu'])
@pytest.mark.parametrize('shape', [(2, 3, 4), (2, 3, 5, 4)])
def test_gradients_of_tokens_lie_row_by_row_on_gpus(platform, shape):
  x, bias = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, (1,) + shape[1:]))
  loss = lambda x, bias: jnp.sum(jnp.cos(add_broadcast(x, bias)))
  with jax.sharding.use_abstract_mesh(abstract_mesh(platform)):
    forward, backward = (
      str(jax.make_jaxpr(function)(x, bias)) for function in (loss, jax.grad(loss, (0, 1)))
    )
  assert 'layout_constraint' not in forward  # an exported program runs on other platforms, too
  assert ('layout_constraint' in backward) == (platform == 'gpu' and len(shape) == 3)
