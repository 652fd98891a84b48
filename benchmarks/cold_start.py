"""Time how long commands take from their start to their first result, beside timm.

    python -m benchmarks.cold_start --torch_python=/path/to/torch/and/timm/bin/python

  quickstart  python -m vit_jax.main --config=configs/quickstart.py, to the end of the first step
  train       configs/vit_b16.py on a folder of JPEGs, batches of 8, to the end of the first step
  predict     python -m vit_jax.tools.predict with ViT-B/16 and one JPEG, to its first answer

The peers are short programs with timm's vit_base_patch16_224, whose parameters are random: one
AdamW step on the same folder (timm's loader), and the five best classes of the same JPEG with the
same parameters. "timm-compiled" uses torch.compile.

Every start is a new process. "Cold" starts find an empty directory where compiled programs are
kept, and "warm" starts find what the cold start before them has left there. The rounds are
interleaved, and the figures are medians. The files of Python and of the libraries are in the page
cache and compiled to bytecode, because a round that is not counted comes first (--no_warmup leaves
it out).
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
WHATS = ('quickstart', 'train', 'predict')
WAYS = ('ours', 'timm', 'timm-compiled')
BATCH_SIZE, CLASSES, PER_CLASS = 8, 2, 8


def write_inputs(directory):
  """Write a folder of JPEGs, and parameters of a ViT-B/16 in timm's layout."""
  import cv2
  import jax
  import numpy as np

  from vit_jax import create_model, save_params
  from vit_jax.pretrained.load import abstract_params

  rng = np.random.default_rng(0)
  for split in ('train', 'val'):
    for label in range(CLASSES):
      folder = directory / 'images' / split / f'class{label}'
      folder.mkdir(parents=True)
      for i in range(PER_CLASS):
        image = cv2.resize(rng.integers(0, 256, (15, 20, 3), np.uint8), (500, 375))
        cv2.imwrite(str(folder / f'{i}.jpg'), image)
  model = create_model('ViT-B/16', num_classes=1000)
  draw = lambda x: rng.normal(size=x.shape, scale=0.02).astype(np.float32)
  save_params(
    jax.tree.map(draw, abstract_params(model)),
    str(directory / 'b16.safetensors'),
    'timm',
    model=model,
  )


def our_command(what, inputs, workdir):
  """Return (command, text that its output contains when the result is there)."""
  if what == 'predict':
    image = inputs / 'images/val/class0/0.jpg'
    command = ['vit_jax.tools.predict', f'--checkpoint={inputs / "b16.safetensors"}', str(image)]
    return [sys.executable, '-m', *command], str(image)
  command = [sys.executable, '-m', 'vit_jax.main', f'--workdir={workdir}']
  if what == 'quickstart':
    command += [f'--config={ROOT / "configs/quickstart.py"}']
  else:
    command += [f'--config={ROOT / "configs/vit_b16.py"}', f'--config.dataset={inputs / "images"}']
    command += [f'--config.batch_size={BATCH_SIZE}', '--config.lr=1e-4', '--config.dtype=float32']
    command += ['--config.total_steps=1000']
    command += ['--config.warmup_steps=100', '--config.dropout=0']
  return command, 'The first step took'


def peer_command(what, way, inputs, torch_python):
  arguments = [f'--peer={what}', f'--inputs={inputs}', '--ways', way]
  return [torch_python, str(pathlib.Path(__file__).resolve()), *arguments], 'The result is there'


def seconds_to_result(command, result, cache):
  """Return the seconds from the start of a command to its result, and then kill it."""
  unset = ('JAX_COMPILATION_CACHE_DIR', 'PYTHONDONTWRITEBYTECODE')
  env = {k: v for k, v in os.environ.items() if k not in unset}
  env |= {'XDG_CACHE_HOME': str(cache), 'TORCHINDUCTOR_CACHE_DIR': str(cache / 'inductor')}
  start = time.perf_counter()
  with subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=ROOT
  ) as process:
    output = []
    try:
      for line in process.stdout:
        output.append(line)
        if result in line:
          return time.perf_counter() - start
    finally:
      process.kill()
  raise RuntimeError(f'{" ".join(command)} ended without a result:\n{"".join(output)}')


def peer(what, way, inputs):
  """Reach the first result with timm."""
  import timm
  import torch

  train = what == 'train'
  model = timm.create_model('vit_base_patch16_224', num_classes=CLASSES if train else 1000)
  forward = torch.compile(model) if way == 'timm-compiled' else model
  if train:
    data = timm.data.create_dataset('', root=str(inputs / 'images/train'))
    loader = timm.data.create_loader(
      data, (3, 224, 224), BATCH_SIZE, is_training=True, num_workers=0, use_prefetcher=False
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    images, labels = next(iter(loader))
    loss = torch.nn.functional.cross_entropy(forward(images), labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print(loss.item())
  else:
    from PIL import Image
    import safetensors.torch

    model.load_state_dict(safetensors.torch.load_file(inputs / 'b16.safetensors'))
    model.eval()
    transform = timm.data.create_transform(
      **timm.data.resolve_data_config(model.pretrained_cfg, model=model)
    )
    image = transform(Image.open(inputs / 'images/val/class0/0.jpg').convert('RGB'))
    with torch.inference_mode():
      print(forward(image[None]).softmax(-1).topk(5))
  print('The result is there.', flush=True)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--what', nargs='+', default=WHATS, choices=WHATS)
  parser.add_argument('--ways', nargs='+', default=WAYS, choices=WAYS)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--no_warmup', action='store_true', help='count the first round too')
  parser.add_argument('--torch_python', help='interpreter of an environment with torch and timm')
  parser.add_argument('--peer', choices=WHATS, help=argparse.SUPPRESS)
  parser.add_argument('--inputs', type=pathlib.Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.peer:
    peer(args.peer, args.ways[0], args.inputs)
    return
  jobs = [
    (what, way)
    for what in args.what
    for way in args.ways
    if way == 'ours' or (args.torch_python and what != 'quickstart')
  ]
  times = {(*job, state): [] for job in jobs for state in ('cold', 'warm')}
  load = os.getloadavg()[0]
  with tempfile.TemporaryDirectory(prefix='cold_start_') as scratch:
    inputs = pathlib.Path(scratch, 'inputs')
    inputs.mkdir()
    write_inputs(inputs)
    for i in range(0 if args.no_warmup else -1, args.rounds):
      for what, way in jobs if i % 2 else reversed(jobs):
        with tempfile.TemporaryDirectory(dir=scratch) as fresh:
          cache = pathlib.Path(fresh, 'cache')
          for state in ('cold', 'warm'):
            if way == 'ours':
              command, result = our_command(what, inputs, pathlib.Path(fresh, state))
            else:
              command, result = peer_command(what, way, inputs, args.torch_python)
            seconds = seconds_to_result(command, result, cache)
            print(f'{what}, {way}, {state}: {seconds:.1f} s', file=sys.stderr, flush=True)
            if i >= 0:
              times[what, way, state].append(seconds)
  print(f'load {load:.1f}, {len(os.sched_getaffinity(0))} threads, {args.rounds} rounds')
  print(f'{"seconds to":12}{"":15}{"cold":>8}{"warm":>8}')
  for what, way in jobs:
    cold, warm = (statistics.median(times[what, way, state]) for state in ('cold', 'warm'))
    print(f'{what:12}{way:15}{cold:8.1f}{warm:8.1f}')


if __name__ == '__main__':
  main()
