"""Save parameters as a checkpoint of any format."""

import logging
import os
from typing import Any

from flax import linen as nn
import numpy as np

from vit_jax.models.usage import usage_of
from vit_jax.pretrained.fingerprint import named_leaves
from vit_jax.pretrained.formats import format_for, write_arrays
from vit_jax.pretrained.metadata import MODEL_FIELDS, USAGE_FIELDS, Metadata, lost_in_npz

log = logging.getLogger('vit_jax')


def save_params(
  params: Any,
  path: str | os.PathLike[str],
  format: str | None = None,
  *,
  model: nn.Module | None = None,
  class_names: list[str] | None = None,
  spelling: str = 'pre_linen',
) -> None:
  """Save parameters for other programs to read. `load_params` loads exactly the same values.

  Args:
    params: a parameter tree.
    path: a file for npz; a directory for orbax; for timm and hf, either a directory, which gets
      model.safetensors and config.json, or a .safetensors file. It is replaced as a whole.
    format: 'npz', 'timm', 'hf' or 'orbax'. None: npz if the path ends in .npz, else orbax.
    model: the model. It has properties that its parameters do not show: the activation (without a
      model, 'gelu_tanh'), norm_eps (1e-6), the image size (a square), and model.usage. npz keeps
      none of them.
    class_names: names in the order of the head's outputs. timm, hf and orbax keep them. None: those
      of model.usage.
    spelling: spelling of the names in npz: 'pre_linen', which the original code and timm read, or
      'linen'.

  Raises:
    InputError: the format cannot hold the model, or the path cannot be written.
  """
  names, leaves = named_leaves(params)
  metadata = Metadata()
  if model is not None:
    fields = {field: getattr(model, field, None) for field in MODEL_FIELDS}
    fields |= {field: getattr(usage_of(model), field) for field in USAGE_FIELDS}
    fields['class_names'] = usage_of(model).names(model.num_classes)
    metadata = Metadata(image_size=model.image_size, **fields)
  class_names = class_names or metadata.class_names
  metadata = metadata._replace(class_names=list(class_names) if class_names else None)
  if lost := lost_in_npz(metadata) if format_for(path, format) == 'npz' else []:
    log.warning(
      'npz does not keep %s. Give it again when you load %s, or save an Orbax directory, which '
      'keeps everything.',
      ', '.join(lost),
      path,
    )
  arrays = {name: np.asarray(leaf) for name, leaf in zip(names, leaves)}
  write_arrays(arrays, path, format, metadata=metadata, spelling=spelling)
