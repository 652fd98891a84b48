"""Compare training and inference steps with those of timm and Hugging Face, on the same device.

    python -m benchmarks.step --model=ViT-B/16 --batch_size=8 --dtype=float32 \\
        --torch_python=/path/to/an/environment/with/torch/timm/transformers/bin/python

Our step is that of vit_jax.training.loop on one device: it takes uint8 images, uses Adam with
weight decay and clipping, and donates the state. The other implementations take uint8 images too,
scale them on the device, and use cross-entropy, fused AdamW, clip_grad_norm_ and SDPA. For bfloat16
they train under autocast, and infer with bfloat16 weights.

Each implementation runs in a process of its own, with as many threads as this process may use. The
processes take turns, round by round: one computes while the others wait, so that other load on the
machine affects all of them. The figures are medians over the rounds. "paused" is a single step
after --pause idle seconds. "faults" are page faults of a step: 0 if it reuses the memory of the
step before. TFLOP/s count the model's own operations (vit_jax.models.flops). The peak is the faster
of two large matrix products, measured in the same rounds. CPU-s count all threads, including those
that wait in a loop, as OpenMP's threads do. On a busy machine, CPU times are comparable only with
OMP_WAIT_POLICY=passive, and wall times are never comparable.

Besides `ours`, --ways takes `ours:NAME`, our step with one of the sets of compiler options in
vit_jax.parallel.compiler, and `ours:option=value,...`, with any options of XLA. This compares all
sets, from which that file's table was made:

    python -m benchmarks.step --ways ours:default ours:eigen ours:onednn --dtype=bfloat16

Several models, batch sizes and image sizes are measured one after the other. With --start_together,
all processes compile at the same time, before the first measurement. This saves time on a GPU that
has memory for all of them. Then "start s" is not comparable, and the compilers choose kernels by
timing them while others use the device:

    python -m benchmarks.step --model ViT-S/16 ViT-B/16 --batch_size 512 256 --dtype=bfloat16 \\
        --ways ours timm-compiled --matmul=8192 --start_together --torch_python=python3
"""

import argparse
import concurrent.futures
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

PEERS = ('timm', 'timm-compiled', 'hf', 'hf-compiled')


def is_ours(way):
  return way.split(':')[0] == 'ours'


def way_name(text):
  """Return a value of --ways, if it is one."""
  if not is_ours(text) and text not in PEERS:
    raise argparse.ArgumentTypeError(f'{text!r} is not one of ours[:OPTIONS], {", ".join(PEERS)}')
  return text


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
  import importlib

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


class Worker:
  """An implementation in its own process."""

  def __init__(self, python, job):
    self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115 (lives as long as the process)
    self._process = subprocess.Popen(
      [python, __file__, '--serve', json.dumps(job)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
      # Without preallocation, all processes fit on one GPU.
      env=os.environ | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},
    )
    self.hello = self._read()

  def __call__(self, request):
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    return self._read()

  def _read(self):
    line = self._process.stdout.readline()
    if line:
      return json.loads(line)
    self.close()
    self._errors.seek(0)
    lines = [line for line in self._errors.read().splitlines() if line.strip()]
    raise RuntimeError(lines[-1] if lines else f'ended with {self._process.returncode}')

  def close(self):
    self._process.stdin.close()
    self._process.wait()


def start_workers(ways, torch_python, jobs, together):
  """Start the implementations of some jobs. If one cannot be started, print the reason.

  Returns:
    A list of {way: Worker}, one for each job.
  """

  def start(task):
    job, way = task
    try:
      return Worker(sys.executable if is_ours(way) else torch_python, job | {'way': way})
    except RuntimeError as e:
      print(f'{way} failed for {job["model"]}: {e}')

  tasks = [(job, way) for job in jobs for way in ways]
  with concurrent.futures.ThreadPoolExecutor(len(tasks) if together else 1) as pool:
    workers = iter(list(pool.map(start, tasks)))
  return [{way: worker for way in ways if (worker := next(workers))} for _ in jobs]


def measure(workers, rounds, round_seconds, pause):
  """Time the steps of each implementation, and a matrix product of each library.

  Returns:
    ({way: [(seconds, CPU seconds, page faults) of a step, ...]},
    {way: [seconds of a step after a pause, ...]}, {library: [seconds of a product, ...]}).
  """
  times, after_pause = {way: [] for way in workers}, {way: [] for way in workers}
  matmuls = {}
  counts = {way: max(1, round(round_seconds / worker(1)[0])) for way, worker in workers.items()}
  for i in range(rounds):
    products = set()
    for way in (list(workers), list(reversed(workers)))[i % 2]:
      times[way].append([t / counts[way] for t in workers[way](counts[way])])
      time.sleep(pause)
      after_pause[way].append(workers[way](1)[0])
      library = 'jax' if is_ours(way) else 'torch'
      if library not in products:
        matmuls.setdefault(library, []).append(workers[way]('matmul')[0])
        products.add(library)
      time.sleep(0.2)  # wait until idle threads stop spinning
  return times, after_pause, matmuls


def report(job, flops, workers, times, after_pause, matmuls):
  from vit_jax.parallel.devices import find_device

  peaks = {name: 2 * job['matmul'] ** 3 / statistics.median(s) for name, s in matmuls.items()}
  hello = next(iter(workers.values())).hello
  published = find_device(hello['kind'])
  print(
    f'{job["mode"]}, {job["model"]} at {job["image_size"]} px, batch {job["batch_size"]}, '
    f'{job["dtype"]}, {hello["kind"]}; TFLOP/s of a {job["matmul"]} x {job["matmul"]} matrix '
    f'product: '
    + ', '.join(f'{name} {p / 1e12:.3f}' for name, p in peaks.items())
    + (f'; published: {published.flops / 1e12:.0f}' if published else '')
  )
  print(
    f'{"":15}{"ms":>9}{"paused":>9}{"of first":>9}{"CPU-s":>7}{"faults":>8}{"images/s":>9}'
    f'{"TFLOP/s":>8}{"of peak":>8}{"peak MB":>8}{"start s":>8}'
  )
  first = [wall for wall, *_ in next(iter(times.values()))]
  for way, rounds in times.items():
    walls, cpus, faults = zip(*rounds)
    median, ratio = statistics.median(walls), statistics.median(a / b for a, b in zip(walls, first))
    rate, hello = flops * job['batch_size'] / median, workers[way].hello
    columns = (
      f'{median * 1e3:9.1f}',
      f'{statistics.median(after_pause[way]) * 1e3:9.1f}',
      f'{ratio:9.2f}',
      f'{statistics.median(cpus):7.2f}',
      f'{statistics.median(faults):8.0f}',
      f'{job["batch_size"] / median:9.2f}',
      f'{rate / 1e12:8.3f}',
      f'{rate / max(peaks.values()):8.0%}',
      f'{hello["peak"] / 1e6:8.0f}',
      f'{hello["start"]:8.1f}',
    )
    print(f'{way:15}', *columns, sep='')


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--model', nargs='+', default=['ViT-S/16'], help='plain ViTs')
  parser.add_argument('--batch_size', nargs='+', type=int, default=[16])
  parser.add_argument('--image_size', nargs='+', type=int, default=[224])
  parser.add_argument('--attention', help='attention_implementation of ours: plain, by_head, cudnn')
  parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
  parser.add_argument('--modes', nargs='+', default=['train', 'infer'], choices=['train', 'infer'])
  parser.add_argument('--ways', nargs='+', default=['ours', *PEERS[:3]], type=way_name)
  parser.add_argument(
    '--start_together', action='store_true', help='compile for all models at the same time'
  )
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--round_seconds', type=float, default=2.0)
  parser.add_argument('--pause', type=float, default=2.0, help='idle seconds before a single step')
  parser.add_argument('--matmul', type=int, default=4096, help='rows and columns; GPUs: 8192')
  parser.add_argument('--torch_python', help='interpreter of an environment with torch, timm, ...')
  parser.add_argument('--serve', type=json.loads, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    serve(args.serve)
    return
  from vit_jax import create_model
  from vit_jax.models.flops import forward_flops, train_flops

  jobs = []
  cases = max(map(len, (args.model, args.batch_size, args.image_size)))
  if any(
    len(values) not in (1, cases) for values in (args.model, args.batch_size, args.image_size)
  ):
    parser.error('--model, --batch_size and --image_size take one value, or one for each case')
  repeat = lambda values: values * cases if len(values) == 1 else values
  for name, batch_size, image_size in zip(
    *map(repeat, (args.model, args.batch_size, args.image_size)), strict=True
  ):
    model = create_model(name, num_classes=1000, image_size=image_size)
    job = dict(
      model=name,
      variant=model.variant,
      patch_size=model.patch_size,
      num_classes=1000,
      image_size=image_size,
      attention=args.attention,
      batch_size=batch_size,
      dtype=args.dtype,
      matmul=args.matmul,
    )
    flops = dict(train=train_flops(model), infer=forward_flops(model))
    jobs += [(job | dict(mode=mode), flops[mode]) for mode in args.modes]
  ways = args.ways if args.torch_python else [w for w in args.ways if is_ours(w)]
  print(
    f'load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} threads, {args.rounds} rounds'
  )
  for group in [jobs] if args.start_together else [[job] for job in jobs]:
    started = start_workers(ways, args.torch_python, [job for job, _ in group], args.start_together)
    for (job, flops), workers in zip(group, started):
      if not workers:
        continue
      times = measure(workers, args.rounds, args.round_seconds, args.pause)
      report(job, flops, workers, *times)
      for worker in workers.values():
        worker.close()


if __name__ == '__main__':
  main()
