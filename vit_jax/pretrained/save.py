"""Write parameters as a checkpoint."""

import os
from typing import Any

from flax import linen as nn
import numpy as np

from vit_jax.pretrained.fingerprint import named_leaves
from vit_jax.pretrained.formats import write_arrays
from vit_jax.pretrained.metadata import MODEL_FIELDS, Metadata


def save_params(
  params: Any,
  path: str | os.PathLike,
  format: str | None = None,
  *,
  model: nn.Module | None = None,
  class_names: list[str] | None = None,
  spelling: str = 'pre_linen',
) -> None:
  """Writes parameters for other programs to read; `load_params` reads back the same bits.

  Args:
    params: a parameter tree.
    path: .npz: a file, as published. orbax: a directory. timm, hf: a directory, which gets
      model.safetensors and config.json, or a .safetensors file. Replaced in one piece.
    format: 'npz', 'timm', 'hf' or 'orbax'; None: npz for a path that ends so, else orbax.
    model: tells what parameters do not: activation (else 'gelu_tanh' is taken for granted),
      norm_eps (else 1e-6), image size (else a square).
    class_names: in the order of the head's outputs; kept by timm, hf and orbax.
    spelling: of npz names, 'pre_linen' (what the original code and timm read) or 'linen'.

  Raises:
    InputError: for what the format cannot hold, or when it cannot be written.
  """
  names, leaves = named_leaves(params)
  metadata = Metadata(class_names=list(class_names) if class_names else None)
  if model is not None:
    metadata = metadata._replace(
      image_size=model.image_size, **{field: getattr(model, field, None) for field in MODEL_FIELDS}
    )
  arrays = {name: np.asarray(leaf) for name, leaf in zip(names, leaves)}
  write_arrays(arrays, path, format, metadata=metadata, spelling=spelling)
