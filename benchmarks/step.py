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
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import step_ways
from benchmarks.step_ways import is_ours
from vit_jax import create_model
from vit_jax.models.flops import forward_flops, train_flops
from vit_jax.parallel.devices import find_device

PEERS = ('timm', 'timm-compiled', 'hf', 'hf-compiled')


def way_name(text):
  """Return a value of --ways, if it is one."""
  if not is_ours(text) and text not in PEERS:
    raise argparse.ArgumentTypeError(f'{text!r} is not one of ours[:OPTIONS], {", ".join(PEERS)}')
  return text


class Worker:
  """An implementation in its own process."""

  def __init__(self, python, job):
    self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115 (lives as long as the process)
    self._process = subprocess.Popen(
      [python, step_ways.__file__, json.dumps(job)],
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
  args = parser.parse_args()
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
