"""Vision Transformers in JAX: pretrain, fine-tune, evaluate, look inside."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vit_jax.inference.predict import predict
  from vit_jax.models.create import create_model
  from vit_jax.pretrained.load import load_model, load_params
  from vit_jax.pretrained.save import save_params

__version__ = '0.1.0'
__all__ = ['create_model', 'load_model', 'load_params', 'predict', 'save_params']

_MODULES = {
  'create_model': 'vit_jax.models.create',
  'load_model': 'vit_jax.pretrained.load',
  'load_params': 'vit_jax.pretrained.load',
  'predict': 'vit_jax.inference.predict',
  'save_params': 'vit_jax.pretrained.save',
}


def __getattr__(name: str) -> Any:
  """Import a public function on its first use, so that `import vit_jax` itself is fast."""
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
