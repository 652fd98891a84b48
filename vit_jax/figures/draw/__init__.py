"""Draw the arrays that `vit_jax.figures` computes, as matplotlib figures."""

from vit_jax.figures.draw.attention_maps import (
  draw_attention_distance,
  draw_attention_maps,
  draw_rollout,
  overlay,
)
from vit_jax.figures.draw.canvas import png, save
from vit_jax.figures.draw.curves import draw_curves
from vit_jax.figures.draw.example_predictions import draw_predictions
from vit_jax.figures.draw.first_layers import draw_filters, draw_position_similarity

__all__ = [
  'draw_attention_distance',
  'draw_attention_maps',
  'draw_curves',
  'draw_filters',
  'draw_position_similarity',
  'draw_predictions',
  'draw_rollout',
  'overlay',
  'png',
  'save',
]
