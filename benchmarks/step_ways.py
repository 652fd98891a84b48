"""The implementations that benchmarks.step compares, each in a process of its own.

benchmarks.step starts this file with the interpreter of the implementation, and with a job in JSON.
"""

import importlib
import json
import os
import re
import resource
import sys
import time


def is_ours(way):
  """Return True for 'ours' and 'ours:OPTIONS'."""
  return way.split(':')[0] == 'ours'


def named_options(way):
  """Return the compiler's options of 'ours:NAME' or 'ours:option=value,...'."""
  from vit_jax.parallel.compiler import OPTION_SETS, supported

  _, _, name = way.partition(':')
  if '=' not in name:
    return supported(OPTION_SETS[name])
  options = dict(option.split('=', 1) for option in re.split(',(?=xla_)', name))
  values = {'true': True, 'false': False}
  return {key: values.get(text, text) for key, text in options.items()}


def jax_steps(job):
  """Return (run(count), device kind, versions, matmul(size), peak memory) of this package."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from vit_jax import create_model
  from vit_jax.parallel.allocator import keep_freed_memory
  from vit_jax.parallel.make_partitioner import make_partitioner
  from vit_jax.parallel.pmap import PmapPartitioner
  from vit_jax.training import step as step_lib
  from vit_jax.training.objectives import supervised
  from vit_jax.training.optim import OptimizerConfig, Schedule, make_optimizer

  keep_freed_memory()
  device, key = jax.devices()[0], jax.random.key(0)
  model = create_model(
    job['model'],
    num_classes=job['num_classes'],
    image_size=job['image_size'],
    dtype=job['dtype'],
    attention_implementation=job['attention'],
  )
  schedule = Schedule('cosine', peak=1e-3, total_steps=100_000, warmup_steps=1000)
  optimizer = make_optimizer(schedule, OptimizerConfig(weight_decay=0.1, clip_norm=1.0))
  objective = supervised(model)
  if ':' in job['way']:
    partitioner = PmapPartitioner(job['batch_size'], options=named_options(job['way']))
  else:
    partitioner = make_partitioner('pmap', job['batch_size'], dtype=job['dtype'])
  train_step = partitioner.train_step(
    step_lib.make_train_step(objective, optimizer, schedule, dropout_key=key)
  )
  eval_step = partitioner.eval_step(step_lib.make_eval_step(objective))
  state = partitioner.init(lambda: step_lib.init_state(model, optimizer, key))
  batch = make_batch(np.random.default_rng(0), job)
  batch['mask'] = np.ones(job['batch_size'], bool)
  batch['example'] = np.arange(job['batch_size'], dtype=np.int32)
  if job['mode'] == 'infer':
    params, state = state.params, None

  def run(count):
    nonlocal state
    for _ in range(count):
      if job['mode'] == 'train':
        state, metrics = train_step(state, batch)
      else:
        metrics = eval_step(params, batch)
      if not partitioner.max_in_flight:
        jax.block_until_ready(metrics)
    jax.block_until_ready(metrics)

  def matmul(size):
    a = jnp.ones((size, size), job['dtype'])
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, a))

  memory = lambda: (device.memory_stats() or {}).get('peak_bytes_in_use')
  return run, device.device_kind, f'jax {jax.__version__}', matmul, memory


def torch_model(job):
  import torch

  d, mlp_dim, num_heads, num_layers = job['variant']
  if job['way'].startswith('timm'):
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
      img_size=job['image_size'],
      patch_size=job['patch_size'],
      embed_dim=d,
      depth=num_layers,
      num_heads=num_heads,
      mlp_ratio=mlp_dim / d,
      num_classes=job['num_classes'],
    )
    forward = model
  else:
    from transformers import ViTConfig, ViTForImageClassification

    model = ViTForImageClassification(
      ViTConfig(
        hidden_size=d,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=mlp_dim,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=job['image_size'],
        patch_size=job['patch_size'],
        num_labels=job['num_classes'],
        attn_implementation='sdpa',
      )
    )
    forward = lambda images: model(images).logits
  return model, torch.compile(forward) if job['way'].endswith('compiled') else forward


def torch_steps(job):
  """Return the same as `jax_steps`, but for timm or transformers."""
  import numpy as np
  import torch

  library = importlib.import_module('timm' if job['way'].startswith('timm') else 'transformers')
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  cuda = torch.cuda.is_available()
  device, dtype = torch.device('cuda' if cuda else 'cpu'), getattr(torch, job['dtype'])
  if cuda:
    torch.set_float32_matmul_precision('high')  # TF32, as XLA does
  torch.manual_seed(0)
  model, forward = torch_model(job)
  train = job['mode'] == 'train'
  model.to(device).train(train)
  if not train:
    model.to(dtype)
  batch = make_batch(np.random.default_rng(0), job)
  host_images = torch.from_numpy(batch['image']).permute(0, 3, 1, 2).contiguous()
  host_labels = torch.from_numpy(batch['label']).long()
  if cuda:
    host_images, host_labels = host_images.pin_memory(), host_labels.pin_memory()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)

  def load_images():
    images = host_images.to(device, non_blocking=True)
    return images.to(torch.float32 if train else dtype).sub_(127.5).div_(127.5)

  def infer_step():
    with torch.inference_mode():
      forward(load_images())

  def train_step():
    images, labels = load_images(), host_labels.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
      loss = torch.nn.functional.cross_entropy(forward(images), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

  step = train_step if train else infer_step
  wait = torch.cuda.synchronize if cuda else lambda: None

  def run(count):
    for _ in range(count):
      step()
    wait()

  def matmul(size):
    a = torch.ones(size, size, dtype=dtype, device=device)
    return lambda: (a @ a, wait())

  memory = lambda: torch.cuda.max_memory_allocated() if cuda else None
  kind = torch.cuda.get_device_name() if cuda else 'cpu'
  versions = f'torch {torch.__version__}, {library.__name__} {library.__version__}'
  return run, kind, versions, matmul, memory


def make_batch(rng, job):
  import numpy as np

  size, batch_size = job['image_size'], job['batch_size']
  return dict(
    image=rng.integers(0, 256, (batch_size, size, size, 3), np.uint8),
    label=rng.integers(0, job['num_classes'], batch_size, np.int32),
  )


def serve(job):
  """Run an implementation: print its properties, then answer step counts or 'matmul' with times."""
  answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print, but not into the answers
  answer = lambda value: print(json.dumps(value), file=answers, flush=True)
  start = time.perf_counter()
  run, kind, versions, matmul, memory = (jax_steps if is_ours(job['way']) else torch_steps)(job)
  run(1)
  start = time.perf_counter() - start
  run(2)
  peak = memory() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  answer(dict(start=start, kind=kind, versions=versions, peak=peak))
  product = None
  for line in sys.stdin:
    request = json.loads(line)
    if request == 'matmul' and product is None:
      product = matmul(job['matmul'])
      product()
    start, cpu, faults = time.perf_counter(), time.process_time(), page_faults()
    product() if request == 'matmul' else run(request)
    answer((time.perf_counter() - start, time.process_time() - cpu, page_faults() - faults))


def page_faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == '__main__':
  serve(json.loads(sys.argv[1]))
