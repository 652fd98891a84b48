import numpy as np

from vit_jax.figures import draw


def test_no_picture_is_too_large(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
  draw.save(draw.draw_rollout(noise, np.ones((4, 2, 2))), tmp_path / 'noise.png')
  assert 50_000 < (tmp_path / 'noise.png').stat().st_size < 300_000
  draw.save(draw.draw_rollout(noise[:1], np.ones((1, 2, 2))), tmp_path / 'x.png', 30_000)
  assert (tmp_path / 'x.png').stat().st_size < 30_000
