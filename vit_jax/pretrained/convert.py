"""Convert a checkpoint from one format to another."""

import os

from vit_jax.errors import InputError
from vit_jax.files import check_new, user_path
from vit_jax.pretrained.fit import absorption_note
from vit_jax.pretrained.formats import format_for, read_checkpoint, write_arrays
from vit_jax.pretrained.metadata import EMPTY, PUBLISHED, Metadata, lost_in_npz

Path = str | os.PathLike[str]


def convert(
  src: Path,
  dst: Path,
  format: str | None = None,
  *,
  spelling: str = 'pre_linen',
  known: Metadata = EMPTY,
  force: bool = False,
) -> list[str]:
  """Read the checkpoint `src` and write the same values to `dst`.

  Args:
    src: a checkpoint in any format that `read_checkpoint` reads.
    dst: a new file for npz; a new directory for orbax; for timm and hf, either a new directory,
      which gets model.safetensors and config.json, or a .safetensors file.
    format: 'npz', 'timm', 'hf' or 'orbax'. None: npz if `dst` ends in .npz, else orbax.
    spelling: spelling of the names in npz, 'pre_linen' or 'linen'.
    known: properties that `src` does not record or records wrongly: num_heads, activation,
      norm_eps, pos_embedding and image_size.
    force: replace what exists at `dst`.

  Returns:
    Lines that describe what was read and written, and what the new file does not keep.

  Raises:
    InputError: `src` cannot be read, `dst` exists, or the format cannot hold the model.
  """
  check_new(user_path(dst), force)
  format = format_for(dst, format)
  arrays, metadata = read_checkpoint(src, num_heads=known.num_heads)
  source_format, metadata = metadata.format, metadata.updated(known._replace(num_heads=None))
  to_torch = format in ('timm', 'hf')
  if to_torch and metadata.activation is None and source_format in ('timm', 'hf'):
    raise InputError(
      f'{src} has no config.json that records its activation. Give --activation=gelu, as is '
      'usual for timm and Hugging Face, or --activation=gelu_tanh, as in the published npz files.'
    )
  notes = _notes(metadata, format, dst)
  num_classes = arrays['head/bias'].shape[0] if 'head/bias' in arrays else 0
  if to_torch and metadata.class_names and len(metadata.class_names) != num_classes:
    notes.append(
      f'Note: Dropped the {len(metadata.class_names)} class names, because the head has '
      f'{num_classes} outputs.'
    )
    metadata = metadata._replace(class_names=None)
  write_arrays(arrays, dst, format, metadata=metadata, spelling=spelling)
  absorbed = format == 'npz' and metadata.custom_normalization
  num_params = sum(x.size for x in arrays.values())
  return [
    f'Read {src} ({source_format}, {len(arrays)} arrays, {num_params:,} parameters).',
    f'Wrote {dst} ({format}, the same {"outputs" if absorbed else "values"}).',
    *notes,
  ]


def _notes(metadata: Metadata, format: str, path: Path) -> list[str]:
  """Return notes on the properties that the new file does not keep or that were assumed."""
  if format == 'npz':
    lost = lost_in_npz(metadata)
    notes = [f'Note: npz does not keep {", ".join(lost)}.'] if lost else []
    absorbed = absorption_note(metadata, path)
    return [*notes, f'Note: {absorbed}'] if absorbed else notes
  if format == 'orbax':
    return []
  assumed = [
    f'{field}={getattr(PUBLISHED, field)!r}'
    for field in ('activation', 'norm_eps')
    if getattr(metadata, field) is None
  ]
  return [f'Note: Assumed {", ".join(assumed)}, as in the published models.'] if assumed else []
