import json

from tests.helpers.paths import FILES
from vit_jax.figures.run_curves import find_own_run, read_runs


def write_metrics(workdir, loss):
  workdir.mkdir(parents=True)
  (workdir / 'metrics.jsonl').write_text(json.dumps({'step': 1, 'train/loss': loss}) + '\n')


def test_the_run_of_a_checkpoint(tmp_path):
  for name in 'ab':
    write_metrics(tmp_path / name, 1.0)
  step = tmp_path / 'a' / 'checkpoints' / '7'
  for part in ('state', 'meta'):  # the layout that a run writes
    (step / part).mkdir(parents=True)
  assert find_own_run(str(tmp_path / 'a')) == find_own_run(str(step)) == tmp_path / 'a'
  assert find_own_run(str(tmp_path / 'b')) is None  # it has no checkpoint
  assert find_own_run(f'{FILES}/vit_gap.npz') is None


def test_names_tell_runs_apart(tmp_path):
  paths = [tmp_path / path for path in ('x/a', 'y/b', 'y/a')]
  for loss, path in enumerate(paths):
    write_metrics(path, loss)
  assert list(read_runs(paths[:2])) == ['a', 'b']
  assert list(read_runs(paths)) == list(map(str, paths))
  assert [curves['train/loss'][1].tolist() for curves in read_runs(paths).values()] == [
    [0.0],
    [1.0],
    [2.0],
  ]
