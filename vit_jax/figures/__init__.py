"""Look inside a model: compute the figures of the paper (sections 4.5, D.4, D.7, D.8) as arrays.

`vit_jax.figures.draw` draws them.
"""

from vit_jax.config.run import read_curves
from vit_jax.figures.attention import (
  Views,
  attention_distance,
  look,
  patch_maps,
  rollout,
  uniform_distance,
)
from vit_jax.figures.weights import (
  name_of_first_layer,
  position_embedding,
  position_similarity,
  principal_filters,
  rgb_kernel,
)

__all__ = [
  'Views',
  'attention_distance',
  'look',
  'name_of_first_layer',
  'patch_maps',
  'position_embedding',
  'position_similarity',
  'principal_filters',
  'read_curves',
  'rgb_kernel',
  'rollout',
  'uniform_distance',
]
