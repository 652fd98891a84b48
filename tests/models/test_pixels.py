import jax.numpy as jnp
import numpy as np

from vit_jax.models.pixels import to_input


def test_input_range():
  x = to_input(jnp.array([0, 255, 100], jnp.uint8))
  np.testing.assert_allclose(x, [-1, 1, (100 - 127.5) / 127.5], rtol=1e-6)
