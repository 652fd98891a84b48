r"""Pretrain with AugReg (arXiv 2106.10270): --config=configs/augreg.py:MODEL,LEVEL,DATA

    python -m vit_jax.main --config=configs/augreg.py:S/16,light1 --workdir=DIR

MODEL is a name such as S/16 or R26+S/32. LEVEL is none, light1, light2, medium1, medium2 (the
default), strong1 or strong2. DATA is imagenet2012 (the default) or imagenet21k. The paper's sweep
also has --config.weight_decay=.03 and --config.dropout=.1 --config.stochastic_depth=.1.
"""

from vit_jax.config.recipes import augreg


def get_config(arg='B/16,medium2'):
  return augreg(*arg.split(',', 2))
