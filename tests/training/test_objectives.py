import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import small_step
from vit_jax.evaluation.losses import cross_entropy
from vit_jax.models.pixels import to_input
from vit_jax.training.objectives import supervised


def test_label_smoothing_is_for_training_only():
  """Without dropout, only the smoothing distinguishes training from evaluation."""
  params = small_step.with_head(small_step.setup()[1]()).params
  batch = jax.tree.map(jnp.asarray, small_step.batch())
  model = small_step.MODEL.clone(dropout=0.0)
  logits = model.apply({'params': params}, to_input(batch['image']))
  right = np.asarray(logits.argmax(-1) == batch['label'])
  objective = supervised(model, loss='sigmoid', label_smoothing=0.1)
  for key, smoothing in ((None, 0.0), (jax.random.key(0), 0.1)):
    losses, correct = objective(params, batch, key)
    want = cross_entropy(logits, batch['label'], kind='sigmoid', label_smoothing=smoothing)
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    np.testing.assert_array_equal(correct, right)
