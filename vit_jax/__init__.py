"""Vision Transformers in JAX: pretrain, fine-tune, evaluate, look inside."""

from vit_jax.inference.predict import predict
from vit_jax.models.create import create_model
from vit_jax.pretrained.load import load_params, save_params
from vit_jax.pretrained.architecture import load_model

__version__ = '0.1.0'
