import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.small_step import BATCH, MODEL, batch, close, setup, with_head
from vit_jax.models.pixels import to_input
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.partitioner import WHOLE
from vit_jax.parallel.pmap import PmapPartitioner
from vit_jax.training.mixup import draw_partner


def mixed_by_hand(data, share):
  before = lambda x: np.roll(x, 1, axis=0)
  images = np.asarray(to_input(jnp.asarray(data['image'])))
  targets = np.eye(5)[data['label']]
  return share * images + (1 - share) * before(images), (
    share * targets + (1 - share) * before(targets)
  )


def test_mixup_is_the_loss_of_mixed_images_and_labels():
  step, init = setup(mixup=0.8)
  state, data = with_head(init()), batch()
  _, metrics = jax.jit(step)(state, data)
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 0), 2**32 - 1)
  share = float(jax.random.beta(key, 0.8, 0.8))
  share = max(share, 1 - share)
  assert 0.5 < share < 0.99
  images, targets = mixed_by_hand(data, share)
  logits = MODEL.apply({'params': state.params}, jnp.asarray(images))
  want = -np.mean(np.sum(targets * np.asarray(jax.nn.log_softmax(logits)), -1))
  np.testing.assert_allclose(metrics['loss'], want, rtol=1e-5)
  np.testing.assert_allclose(metrics['accuracy'], np.mean(logits.argmax(-1) == data['label']))


def test_each_step_draws_its_own_mixture_from_beta():
  shares = np.array(
    [
      draw_partner(jax.tree.map(jnp.asarray, batch()), 0.2, jax.random.key(k), WHOLE).share
      for k in range(400)
    ]
  )
  assert (shares == shares[:, :1]).all()  # one for the whole batch
  draws = np.random.default_rng(0).beta(0.2, 0.2, 100_000)
  want = np.maximum(draws, 1 - draws)
  assert shares.min() >= 0.5
  assert abs(shares.mean() - want.mean()) < 3 * want.std() / 20


def test_an_unreadable_image_is_not_mixed_into_another():
  step, init = setup(mixup=0.8)
  data = batch()
  data['mask'][5] = False
  other = {k: v.copy() for k, v in data.items()}
  other['image'][5], other['label'][5] = 0, 3
  state = with_head(init())
  close(jax.jit(step)(state, data), jax.jit(step)(state, other), 0)


@pytest.mark.parametrize(
  'make',
  [
    lambda: PmapPartitioner(BATCH, 1),
    lambda: PmapPartitioner(BATCH, 2),
    lambda: MeshPartitioner(BATCH, 2, (2, 4)),
  ],
)
def test_mixup_and_average_are_the_same_on_every_layout(make):
  partitioner = make()
  accumulate = (
    2 if BATCH // partitioner.num_devices == 2 and isinstance(partitioner, MeshPartitioner) else 1
  )
  one, init = setup(mixup=0.8, average=0.9)
  alone, one = with_head(init()), jax.jit(one)
  step, _ = setup(mixup=0.8, average=0.9, accumulate=accumulate)
  many, step = partitioner.put(with_head(init())), partitioner.train_step(step)
  for k in range(3):
    alone, m1 = one(alone, batch(k))
    many, m2 = step(many, batch(k))
    close(m1, jax.device_get(m2), 1e-5)
  close(alone.average, jax.device_get(many.average), 1e-5)
