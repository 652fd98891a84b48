"""Read old configs, which spell "not set" as 0, '', -1 or () instead of None.

Fields that old configs do not have get values with which a run goes on as it was.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

# The value that meant "not set" in each field.
OLD_SPELLINGS = {
  'num_layers': 0,
  'hidden_dim': 0,
  'mlp_dim': 0,
  'num_heads': 0,
  'resnet_stages': 0,
  'representation_size': 0,
  'layer_scale': 0.0,
  'init_from': '',
  'trained_blocks': -1,
  'data_dir': '',
  'train_split': '',
  'eval_split': '',
  'exclude_ids': '',
  'class_balance': 0.0,
  'num_classes': 0,
  'resize_size': 0,
  'eval_filter': '',
  'rand_augment': (0, 0),
  'augment_ops': (),
  'mixup': 0.0,
  'pretext': '',
  'clip_norm': 0.0,
  'average': 0.0,
  'total_steps': 0,
  'attention_implementation': '',
  'compile_cache': '',
  'num_threads': 0,
  'fewshot': '',
  'profile_steps': (0, 0),
}
# In these fields the old spelling now means "off, whatever config.augment says".
_MEANS_OFF = ('mixup', 'rand_augment')


def normalize(config: ConfigDict) -> None:
  """Replace old spellings of "not set" by None, in place, unless they may mean something else."""
  for field, old in OLD_SPELLINGS.items():
    if field in config and field not in _MEANS_OFF and config[field] == old:
      config[field] = None


def upgrade(recorded: Mapping[str, Any]) -> dict[str, Any]:
  """Return the fields of a config.json with every old spelling of "not set" replaced by None.

  A config.json is old if it has no null, because "not set" was never null before.
  """
  if None in recorded.values():
    return dict(recorded)
  return {field: None if _is_old(field, value) else value for field, value in recorded.items()}


def later_fields(recorded: Mapping[str, Any]) -> dict[str, Any]:
  """Return fields that a recorded config lacks, where a default would change the run's images."""
  fields = {}
  if 'eval_filter' in recorded:
    return fields
  if recorded.get('fewshot'):
    fields['fewshot_preset'] = 'inception'
  if recorded.get('preset', 'inception') == 'inception':
    fields['eval_filter'] = 'bilinear'
  return fields


def _is_old(field: str, value: Any) -> bool:
  value = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
  return field in OLD_SPELLINGS and value == OLD_SPELLINGS[field]
