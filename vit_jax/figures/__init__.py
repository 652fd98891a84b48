"""Looking inside a model: the figures of the paper (sections 4.5, D.4, D.7-D.8), as arrays.

`figures.draw` makes the pictures of them.
"""

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
