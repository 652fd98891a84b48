"""Pretrain ViT-B/16 without labels, by masked patch prediction (paper B.1.2).

    python -m vit_jax.main --config=configs/mpp_b16.py --config.dataset=YOURS --workdir=DIR

The result is a checkpoint that configs/finetune.py and few-shot evaluation start from. The paper
trains on JFT-300M, which is not public. Most of the gain is there after 100,000 steps.
"""

from vit_jax.config import default_config


def get_config():
  c = default_config()
  c.model, c.pretext = 'ViT-B/16', 'masked_patches'
  c.dataset = 'jft_300m'
  c.batch_size, c.total_steps, c.warmup_steps = 4096, 1_000_000, 10_000
  c.lr, c.schedule = 2e-4, 'cosine'
  c.weight_decay, c.dropout, c.clip_norm = 0.1, 0.0, None  # not in the paper
  return c
