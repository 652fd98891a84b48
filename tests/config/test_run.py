import json

from etils import epath
import pytest

from vit_jax.config.fields import default_config
from vit_jax.config.old_spellings import OLD_SPELLINGS
from vit_jax.config.run import (
  MAY_CHANGE,
  Damaged,
  find_run,
  has_checkpoint,
  keep_recorded,
  read_config,
  read_curves,
  read_metrics,
  read_run,
)
from vit_jax.errors import InputError

LINES = [
  {'step': 10, 'train/loss': 2.0},
  {'step': 15, 'eval/accuracy': 0.25, 'eval/examples': 20},
  {'step': 20, 'train/loss': 1.5, 'train/lr': 0.1},
]
TEXT = ''.join(json.dumps(line) + '\n' for line in LINES)


def record(workdir, **fields):
  c = default_config()
  c.update(fields)
  (workdir / 'config.json').write_text(json.dumps(dict(c.items())))
  return c.to_dict()


@pytest.mark.parametrize('path_type', [lambda path: path, epath.Path])
def test_a_run_is_a_plain_mapping(tmp_path, path_type):
  config = record(tmp_path, lr=0.5, lr_drops=(1, 2))
  run = read_run(path_type(tmp_path))
  assert type(run.config) is dict
  assert (run.workdir, run.config) == (tmp_path, config)  # tuples are tuples again


def test_fields_that_a_run_did_not_know_have_their_defaults(tmp_path):
  config = record(tmp_path, lr=0.5)
  recorded = json.loads((tmp_path / 'config.json').read_text())
  del recorded['registers']
  (tmp_path / 'config.json').write_text(json.dumps(recorded | {'of_the_future': 1}))
  assert read_run(tmp_path).config == config
  assert 'registers' not in read_config(tmp_path)
  assert read_config(tmp_path)['of_the_future'] == 1


def test_the_run_that_wrote_a_checkpoint(tmp_path):
  step = tmp_path / 'checkpoints' / '20'
  assert find_run(None) is None
  assert find_run(step) is None  # no config.json
  config = record(tmp_path, seed=3)
  assert find_run(step).config == config and find_run(step).workdir == tmp_path
  assert find_run(tmp_path / 'elsewhere' / '20') is None


@pytest.mark.parametrize(
  'text, words',
  [
    (None, '{} is not the workdir of a run: it has no config.json. Check the path.'),
    ('{', 'Cannot read {}/config.json: Expecting property name enclosed in double quotes: line 1'),
    ('[]', '{}/config.json is not the config of a run: it does not name a model and a dataset.'),
    ('{}', 'Cannot read {}/config.json: it is empty.'),
    ('{"model": "a"}', '{}/config.json is not the config of a run: it does not name a model a'),
    (
      '{"model": "a", "dataset": "b", "lr": "x"}',
      "Cannot read {}/config.json: Could not override field 'lr'",
    ),
  ],
)
def test_directories_that_are_not_runs(tmp_path, text, words):
  if text is not None:
    (tmp_path / 'config.json').write_text(text)
  with pytest.raises(InputError) as e:
    read_run(tmp_path)
  assert str(e.value).startswith(words.format(tmp_path))


def test_metrics_as_recorded(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(TEXT + '{"step": 30, "train/lo')  # the run is still writing
  assert read_metrics(path) == LINES
  assert type(read_metrics(path)[1]['eval/examples']) is int
  path.write_text(TEXT + '{"step": 30, "train/loss": NaN}\n')
  assert str(read_metrics(path)[3]['train/loss']) == 'nan'


DAMAGED_LINES = {
  'list': b'[1]',
  'no step': b'{"loss": 1}',
  'text': b'{"step": 1, "loss": "x"}',
  'half': b'{',
  'number': b'1',
  'empty': b'',
  'blank': b' \t',
  'zeros': b'\0' * 50,
  'no text': b'\xff\xfe{"step": 1}',
  'no number': b'{"step": NaN, "loss": 1}',
  'too large': b'{"step": 1, "loss": 1' + b'0' * 400 + b'}',
  'too deep': b'[' * 100_000,
  'two': b'{"step": 1}{"step": 2}',
}


@pytest.mark.parametrize('line', DAMAGED_LINES.values(), ids=DAMAGED_LINES)
def test_a_damaged_line_of_metrics_is_named_and_left_out(tmp_path, line, messages):
  path = tmp_path / 'metrics.jsonl'
  first, *rest = TEXT.encode().splitlines(keepends=True)
  path.write_bytes(first + line + b'\n' + b''.join(rest) + line + b'\n' + b'{"step": 30, "tra')
  assert read_metrics(path) == LINES and not (tmp_path / 'metrics.jsonl.damaged').exists()
  assert messages == [f'{path}: Left out damaged or empty lines: 2; 5.']
  content = path.read_bytes()
  assert read_metrics(path, keep_damaged=True) == LINES
  assert messages[-1] == f'The file with these lines is kept as {path}.damaged.'
  assert (tmp_path / 'metrics.jsonl.damaged').read_bytes() == content == path.read_bytes()


DAMAGED_CONFIGS = {
  'empty': '',
  'blank': ' \n',
  'zeros': '\0' * 100,
  'half': '{',
  'list': '[]',
  'object': '{}',
  'too deep': '[' * 100_000,
  'no text': '{"lr": "\xff"',
  'type': '{"model": "a", "dataset": "b", "lr": "x"}',
}


@pytest.mark.parametrize('text', DAMAGED_CONFIGS.values(), ids=DAMAGED_CONFIGS)
def test_a_damaged_config_does_not_stop_its_readers(tmp_path, text, messages):
  step = tmp_path / 'checkpoints' / '20'
  step.mkdir(parents=True)
  (tmp_path / 'config.json').write_text(text, encoding='latin-1')
  with pytest.raises(Damaged):
    read_run(tmp_path)
  assert find_run(step) is None
  assert messages and all(m.endswith('Going on without the config of the run.') for m in messages)
  assert str(tmp_path / 'config.json') in messages[0]
  config = default_config()
  assert keep_recorded(config, tmp_path, ()) == [] and config == default_config()


def test_an_empty_config_is_called_empty(tmp_path):
  (tmp_path / 'config.json').touch()
  with pytest.raises(Damaged) as e:
    read_run(tmp_path)
  assert str(e.value) == f'Cannot read {tmp_path}/config.json: it is empty.'


def test_curves(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(TEXT + '{"step": 30, "train/lo')
  curves = read_curves(tmp_path)
  assert {name: [list(x) for x in curve] for name, curve in curves.items()} == {
    'train/loss': [[10, 20], [2.0, 1.5]],
    'eval/accuracy': [[15], [0.25]],
    'eval/examples': [[15], [20.0]],
    'train/lr': [[20], [0.1]],
  }
  (tmp_path / 'metrics.jsonl').write_text('')
  with pytest.raises(InputError) as e:
    read_curves(tmp_path)
  assert str(e.value) == (
    f'{tmp_path}/metrics.jsonl has no metrics yet: the run has not reached its first log_every.'
  )
  with pytest.raises(InputError) as e:
    read_curves(tmp_path / 'none')
  assert str(e.value) == (
    f'Cannot read {tmp_path}/none: No such file or directory. Give the workdir of a run.'
  )


@pytest.mark.parametrize('path_type', [lambda path: path, epath.Path])
def test_a_resumed_run_is_the_run_it_was(tmp_path, path_type):
  (tmp_path / 'checkpoints' / '20').mkdir(parents=True)
  record(tmp_path, lr=0.001, seed=3, batch_size=64, mixup=0.1, keep=7, lr_drops=(1, 2))
  c = default_config()
  c.update(dict(lr=0.003, batch_size=128, keep=1, lr_drops=(1, 2), data_dir='/data'))
  notes = keep_recorded(c, path_type(tmp_path), {'batch_size', 'dropout'})
  assert notes == [
    'config.lr: keeping 0.001 from the run being resumed. The config file now says 0.003. '
    'Pass --config.lr=... to change it.',
    'config.mixup: keeping 0.1 from the run being resumed. The config file now says None. '
    'Pass --config.mixup=... to change it.',
    'config.seed: keeping 3 from the run being resumed. The config file now says 0. '
    'Pass --config.seed=... to change it.',
  ]
  assert (c.mixup, c.lr, c.seed, c.lr_drops) == (0.1, 0.001, 3, (1, 2))  # as recorded
  assert c.batch_size == 128  # given on the command line
  assert (c.keep, c.data_dir) == (1, '/data')  # free to change
  assert keep_recorded(c, path_type(tmp_path), {'batch_size'}) == []


def test_old_spellings_do_not_count_as_changes(tmp_path):
  (tmp_path / 'checkpoints' / '20').mkdir(parents=True)
  c = default_config()
  old = {field: OLD_SPELLINGS.get(field, value) for field, value in c.items()}
  old |= {'clip_norm': 1.0}  # its default was a number before, too
  (tmp_path / 'config.json').write_text(json.dumps(old))
  assert keep_recorded(c, tmp_path, ()) == []


def test_a_resumed_run_keeps_the_images_on_which_it_was_evaluated(tmp_path):
  (tmp_path / 'checkpoints' / '20').mkdir(parents=True)
  old = default_config().to_dict() | {'fewshot': 'cifar100'}
  del old['eval_filter'], old['fewshot_preset'], old['fast_dct']
  (tmp_path / 'config.json').write_text(json.dumps(old))
  c = default_config()
  c.fewshot = 'cifar100'
  assert keep_recorded(c, tmp_path, ()) == [
    "config.eval_filter: keeping 'bilinear' from the run being resumed. The config file now says "
    'None. Pass --config.eval_filter=... to change it.',
    "config.fewshot_preset: keeping 'inception' from the run being resumed. The config file now "
    "says 'squash'. Pass --config.fewshot_preset=... to change it.",
  ]
  assert (c.eval_filter, c.fewshot_preset, c.fast_dct) == ('bilinear', 'inception', False)
  assert read_run(tmp_path).config['eval_filter'] == 'bilinear'  # for tools.evaluate and predict


def test_a_run_without_a_checkpoint_starts_as_the_file_says(tmp_path):
  c = default_config()
  assert keep_recorded(c, tmp_path / 'none', ()) == []
  record(tmp_path, lr=0.001)
  assert keep_recorded(c, tmp_path, ()) == [] and c.lr == default_config().lr
  assert keep_recorded(c, tmp_path / 'config.json', ()) == []  # not a directory


def test_fields_that_may_change_exist():
  assert set(MAY_CHANGE) < set(default_config())


def test_a_checkpoint_that_was_cut_short_does_not_count(tmp_path):
  assert not has_checkpoint(tmp_path)
  (tmp_path / 'checkpoints' / '20.orbax-checkpoint-tmp').mkdir(parents=True)
  assert not has_checkpoint(tmp_path)
  (tmp_path / 'checkpoints' / '20').mkdir()
  assert has_checkpoint(tmp_path)


def test_a_resumed_run_keeps_its_length(tmp_path):
  """A length on the command line replaces it, but not one that earlier versions ignored."""
  (tmp_path / 'checkpoints' / '20').mkdir(parents=True)

  def resumed(recorded, given, **now):
    record(tmp_path, **recorded)
    c = default_config()
    c.update(now)
    return keep_recorded(c, tmp_path, given), (c.total_steps, c.num_epochs)

  kept = 'from the run being resumed. The config file now says'
  assert resumed({'total_steps': 500}, (), total_steps=700) == (
    [f'config.total_steps: keeping 500 {kept} 700. Pass --config.total_steps=... to change it.'],
    (500, 300.0),
  )
  recorded = {'total_steps': None, 'num_epochs': 10.0}  # was started with --config.num_epochs=10
  assert resumed(recorded, (), total_steps=500)[1] == (None, 10.0)
  assert resumed(recorded, {'num_epochs'}, num_epochs=10.0) == ([], (None, 10.0))
  assert resumed(recorded, {'num_epochs'}, num_epochs=20.0) == ([], (None, 20.0))
  assert resumed(recorded, {'total_steps'}, total_steps=9)[1] == (9, 10.0)
  assert resumed({'total_steps': 500}, {'num_epochs'}, num_epochs=20.0) == ([], (None, 20.0))
  earlier = {'total_steps': 500, 'num_epochs': 10.0}  # trained 500 steps, whatever num_epochs said
  assert resumed(earlier, {'num_epochs'}, num_epochs=10.0) == (
    [f'config.total_steps: keeping 500 {kept} None. Pass --config.total_steps=... to change it.'],
    (500, 10.0),
  )
