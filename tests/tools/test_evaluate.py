"""The scores of the evaluate tool equal those of the run, and those of plain loops."""

import csv
import json
import os
import shutil
import signal

import cv2
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vit_jax import create_model, load_params, save_params
from vit_jax.config.fields import default_config
from vit_jax.data import class_names, decode, preprocess
from vit_jax.data.open_source import open_source
from vit_jax.evaluation import predictions
from vit_jax.models.pixels import to_input
from vit_jax.tools import evaluate as tool
from vit_jax.training import loop as train_lib

TINY = dict(hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=1)


def train(workdir, data_dir, **changes):
  """Return the workdir of a run on digits that gets some predictions right."""
  c = default_config()
  c.update(
    dict(
      TINY,
      model='ViT-Ti/8',
      image_size=16,
      dtype='float32',
      dataset='digits',
      data_dir=data_dir,
      preset='inception',
      resize_size=17,
      batch_size=64,
      total_steps=150,
      lr=1e-2,
      warmup_steps=10,
      eval_every=0,
      save_every=0,
      num_threads=2,
      num_classes=12,
      eval_split='test[:300]',
      weight_decay=0.01,
    )
    | changes
  )
  train_lib.train(c, workdir)
  return workdir


@pytest.fixture(scope='module')
def run(tmp_path_factory, digits_dir):
  return train(tmp_path_factory.mktemp('run'), digits_dir)


def logged(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return {k: v for line in lines for k, v in json.loads(line).items()}


def evaluate(capsys, *args):
  """Return the JSON that the tool prints."""
  assert tool.main([*map(str, args), '--json']) == 0, capsys.readouterr().err
  return json.loads(capsys.readouterr().out)


def fails(capsys, *args):
  """Return the error that the tool prints."""
  assert tool.main(list(map(str, args))) == 1
  out, err = capsys.readouterr()
  last = err.splitlines()[-1]
  assert out == '' and last.startswith('error: ')
  return last.removeprefix('error: ')


def save_model(path, num_classes=4, seed=0, **fields):
  """Save a model for 8 px with a random head, so that its predictions differ by image."""
  model = create_model('ViT-Ti/8', num_classes=num_classes, image_size=8, **TINY | fields)
  rng = np.random.default_rng(seed)
  init = model.init(jax.random.key(seed), np.zeros((1, 8, 8, 3)))['params']
  params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), init)
  save_params(params, path)
  return model, params


def logits_of(model, params, images):
  return np.asarray(model.apply({'params': params}, to_input(np.stack(images))), np.float64)


def test_a_run_is_evaluated_as_it_was(run, capsys, tmp_path):
  report = evaluate(capsys, f'--checkpoint={run}')
  metrics = logged(run)
  assert report['accuracy'] == metrics['eval/accuracy'] > 0.3
  assert report['images'] == metrics['eval/examples'] == 300
  assert report['loss'] == pytest.approx(metrics['eval/loss'], abs=1e-6)
  assert (
    report['dataset'],
    report['split'],
    report['image_size'],
    report['preset'],
    report['dtype'],
    report['loss_kind'],
  ) == ('digits', 'test[:300]', [16, 16], 'inception', 'float32', 'softmax')
  assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_averaged_parameters(capsys, tmp_path, digits_dir):
  report = evaluate(
    capsys, f'--checkpoint={train(tmp_path, digits_dir, total_steps=9, average=0.5)}'
  )
  metrics = logged(tmp_path)
  assert report['averaged'] and report['accuracy'] == metrics['eval/average_accuracy']
  assert report['loss'] == pytest.approx(metrics['eval/average_loss'], abs=1e-6)
  assert abs(report['loss'] - metrics['eval/loss']) > 1e-4


def test_every_score_equals_plain_loops(run, capsys, tmp_path):
  """The batches do not divide the split, and every image of it counts."""
  report = evaluate(
    capsys, f'--checkpoint={run}', '--split=test', '--batch_size=112', f'--out={tmp_path}'
  )
  assert report == json.loads((tmp_path / 'evaluation.json').read_text())
  data = open_source('digits', 'test', json.loads((run / 'config.json').read_text())['data_dir'])
  model = create_model('ViT-Ti/8', num_classes=12, image_size=16, **TINY)
  prepare = preprocess.make_eval_preprocess('inception', 16, resize_size=17)
  logits = logits_of(
    model, load_params(run, model), [prepare(data[i]['image'], None) for i in range(len(data))]
  )
  labels = [data[i]['label'] for i in range(len(data))]
  shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  order = np.argsort(-logits, axis=1)
  right = [order[i, 0] == labels[i] for i in range(360)]
  assert report['images'] == 360 and report['correct'] == sum(right)
  assert report['accuracy'] == sum(right) / 360
  assert report['top5_accuracy'] == sum(labels[i] in order[i, :5] for i in range(360)) / 360
  assert report['loss'] == pytest.approx(
    np.mean([-np.log(shares[i, labels[i]]) for i in range(360)]), abs=1e-5
  )
  gaps = []
  for m in range(15):
    inside = [i for i in range(360) if m / 15 < shares[i].max() <= (m + 1) / 15]
    gaps.append(abs(sum(right[i] - shares[i].max() for i in inside)) / 360)
    assert report['calibration_bins'][m]['images'] == len(inside)
  assert report['calibration_error'] == pytest.approx(sum(gaps), abs=1e-5)
  assert len(report['classes']) == 10
  for c in report['classes']:
    own = [i for i in range(360) if labels[i] == c['class']]
    assert c['name'] == str(c['class']) and c['images'] == len(own)
    assert c['accuracy'] == sum(right[i] for i in own) / len(own)
  assert report['mean_class_accuracy'] == pytest.approx(
    np.mean([c['accuracy'] for c in report['classes']])
  )
  errors = [(labels[i], order[i, 0]) for i in range(360) if not right[i]]
  counts = [c['images'] for c in report['confusions']]
  assert sum(counts) == len(errors) and counts == sorted(counts, reverse=True)
  assert all(
    errors.count((c['class'], c['prediction'])) == c['images'] for c in report['confusions']
  )


def test_what_is_written(run, capsys, tmp_path):
  out = tmp_path / 'new' / 'results'
  report = evaluate(capsys, f'--checkpoint={run}', f'--out={out}')
  assert {p.name for p in out.iterdir()} == {
    'evaluation.json',
    'per_class.csv',
    'predictions.csv',
    'confusion.png',
  }
  with open(out / 'per_class.csv', newline='') as f:
    rows = list(csv.DictReader(f))
  assert rows == [{k: str(v) for k, v in c.items()} for c in report['classes']]
  picture = cv2.imread(str(out / 'confusion.png'))
  assert min(picture.shape[:2]) > 500 and len(np.unique(picture)) > 50
  evaluate(
    capsys, f'--checkpoint={run}', '--split=test[:9]', f'--out={out}'
  )  # replaces the earlier files
  assert json.loads((out / 'evaluation.json').read_text())['images'] == 9
  assert (out / 'per_class.csv').read_text().count('\n') == 11


def test_table(run, capsys):
  report = evaluate(capsys, f'--checkpoint={run}')
  assert tool.main([f'--checkpoint={run}']) == 0
  out, err = capsys.readouterr()
  assert err == ''
  assert out.startswith(f'{run} on digits, test[:300]:\n  accuracy            ')
  lines = out.splitlines()
  assert lines[1].split() == [
    'accuracy',
    f'{100 * report["accuracy"]:.2f}',
    '%',
    str(report['correct']),
    'of',
    '300',
    'images',
  ]
  start = lines.index('worst classes:') + 1
  worst = sorted(c['accuracy'] for c in report['classes'])[:5]
  assert [float(line.split()[0]) for line in lines[start : start + 5]] == [
    pytest.approx(100 * a, abs=0.005) for a in worst
  ]
  assert lines[start + 5] == 'most frequent confusions:'
  first = report['confusions'][0]
  assert lines[start + 6].split() == [
    str(first['images']),
    'x',
    first['name'] + ',',
    'taken',
    'for',
    first['predicted_name'],
  ]


def test_the_computation_of_a_run_in_bfloat16(run, capsys, tmp_path):
  copy = shutil.copytree(run, tmp_path / 'copy')
  config = json.loads((copy / 'config.json').read_text())
  (copy / 'config.json').write_text(json.dumps(config | {'dtype': 'bfloat16', 'eval_split': ''}))
  report = evaluate(capsys, f'--checkpoint={copy}')
  assert (report['dtype'], report['split'], report['images']) == ('bfloat16', 'test', 360)
  again = evaluate(capsys, f'--checkpoint={copy}', '--dtype=float32', '--split=test')
  assert again['dtype'] == 'float32' and 0 < abs(report['loss'] - again['loss']) < 0.02


@pytest.fixture(scope='module')
def real(tmp_path_factory):
  """Write a small ImageNet with ReaL labels. Return it, its model and the labels of each image.

  The labels follow from the model's predictions.
  """
  root = tmp_path_factory.mktemp('real')
  model, params = save_model(root / 'model.npz', num_classes=1000)
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (9, 8, 8, 3), np.uint8)
  order = np.argsort(-logits_of(model, params, images), axis=1)
  labels = [
    [order[0, 0]],
    [order[1, 3], order[1, 0]],
    [order[2, 4], order[2, 5]],
    [],
    [order[4, 5]],
    [order[5, 0], order[5, 8], order[5, 9]],
    [],
    [order[7, 1]],
    [order[8, 20], order[8, 30]],
  ]
  labels = [[int(i) for i in several] for several in labels]
  ids = [f'n{i:08}' for i in range(1000)]

  class Real(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = 'imagenet2012_real'
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      label = tfds.features.ClassLabel(names=ids)
      return tfds.core.DatasetInfo(
        builder=self,
        supervised_keys=('image', 'real_label'),
        disable_shuffling=True,
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(encoding_format='jpeg'),
            'original_label': label,
            'real_label': tfds.features.Sequence(label),
            'file_name': tfds.features.Text(),
          }
        ),
      )

    def _split_generators(self, dl_manager):
      return {'validation': self._generate_examples()}

    def _generate_examples(self):
      for i, image in enumerate(images):
        png = cv2.imencode('.png', image[..., ::-1])[
          1
        ].tobytes()  # PNG, which is lossless; the format is read from the content
        yield i, {'image': png, 'original_label': 7, 'real_label': labels[i], 'file_name': f'{i}'}

  Real(data_dir=str(root), file_format='array_record').download_and_prepare()
  return root, labels, order


def test_real_labels(real, capsys, tmp_path):
  directory, labels, order = real
  base = [f'--checkpoint={directory}/model.npz', f'--data_dir={directory}']
  report = evaluate(capsys, *base, '--labels=real', f'--out={tmp_path}')
  assert (tmp_path / 'confusion.png').stat().st_size > 1000
  assert (report['dataset'], report['split']) == ('imagenet2012_real', 'validation')
  assert (report['images'], report['skipped'], report['correct']) == (7, 2, 3)  # images 0, 1 and 5
  assert report['accuracy'] == 3 / 7 and report['loss'] is None
  assert report['top5_accuracy'] == 5 / 7  # images 2 and 7, too
  images, right = np.zeros(1000, int), np.zeros(1000, int)
  for i, several in enumerate(labels):
    images[several] += 1
    right[several] += order[i, 0] in several
  assert [c['images'] for c in report['classes']] == images.tolist()
  assert [c['correct'] for c in report['classes']] == right.tolist()
  assert report['classes'][labels[5][1]]['name'] == class_names.imagenet_names(1000)[labels[5][1]]
  assert [(c['class'], c['prediction'], c['images']) for c in report['confusions']] == sorted(
    (labels[i][0], order[i, 0], 1) for i in (4, 7)
  )  # wrong predictions for images with one label
  for args in (
    ['--dataset=imagenet2012', '--labels=real'],
    ['--dataset=imagenet2012_real'],
    ['--dataset=imagenet2012_real:1.0.0', '--labels=real', '--split=validation'],
  ):
    again = evaluate(capsys, *base, *args)
    assert again | {'dataset': ''} == report | {'dataset': ''}
  assert tool.main([*base, '--labels=real']) == 0
  out = capsys.readouterr().out
  assert '42.86 %   3 of 7 images\n' in out and 'loss' not in out.split('note: ')[0]
  assert 'note: Left out 2 images without a label.\n' in out
  assert 'The confusions are those of the 3 images with one label.' in out


def test_the_loss_of_several_labels_is_that_of_sigmoids(real, capsys):
  directory, labels, _ = real
  report = evaluate(
    capsys,
    f'--checkpoint={directory}/model.npz',
    f'--data_dir={directory}',
    '--labels=real',
    '--loss=sigmoid',
    '--split=validation[:2]',
  )
  model = create_model('ViT-Ti/8', num_classes=1000, image_size=8, **TINY)
  data = open_source('imagenet2012_real', 'validation', str(directory))
  logits = logits_of(
    model,
    load_params(directory / 'model.npz', model),
    [decode.decode_image(data[i]['image']) for i in range(2)],
  )
  losses = []
  for i in range(2):
    targets = np.isin(np.arange(1000), labels[i])
    losses.append(np.logaddexp(0, np.where(targets, -logits[i], logits[i])).sum())
  assert report['loss'] == pytest.approx(np.mean(losses), rel=1e-6) and report['correct'] == 2
  confidences = [1 / (1 + np.exp(-logits[i].max())) for i in range(2)]
  assert report['calibration_error'] == pytest.approx(1 - np.mean(confidences), abs=1e-6)


@pytest.fixture
def folder(tmp_path):
  """Write 13 images of classes a to d (val has only a, b and c), and a model. Return the folder."""
  for i in range(13):
    split, label = ('train', 'abcd'[i % 4]) if i < 4 else ('val', 'abc'[i % 3])
    path = tmp_path / 'images' / split / label / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(i).integers(0, 256, (9, 7, 3), np.uint8))
  save_model(tmp_path / 'model.npz')
  return tmp_path


def test_a_folder(folder, capsys):
  (folder / 'names').write_text('Ameise\nBiene\nChamäleon\nDachs\n')
  base = [f'--checkpoint={folder}/model.npz', f'--dataset={folder}/images']
  report = evaluate(capsys, *base, f'--class_names={folder}/names')
  assert (report['split'], report['preset'], report['images']) == ('val', 'bit', 9)
  assert [(c['name'], c['images']) for c in report['classes']] == [
    ('Ameise', 3),
    ('Biene', 3),
    ('Chamäleon', 3),
    ('Dachs', 0),
  ]
  assert report['classes'][3]['accuracy'] is None
  assert report['top5_accuracy'] is None and report['notes'] == [
    'There is no top-5 accuracy: the model has 4 classes.'
  ]
  report = evaluate(capsys, *base, '--split=train+val', '--image_size=16,8', '--preset=bit')
  assert report['images'] == 13 and report['image_size'] == [16, 8]
  assert [c['name'] for c in report['classes']] == list('abcd')


def test_the_scores_are_printed_before_they_are_written(folder, capsys):
  (folder / 'out' / 'evaluation.json').mkdir(parents=True)  # a directory that is in the way
  args = [f'--checkpoint={folder}/model.npz', f'--dataset={folder}/images', f'--out={folder}/out']
  assert tool.main(args) == 1
  out, err = capsys.readouterr()
  assert 'mean over classes' in out
  assert err.splitlines()[-1] == (
    f'error: Cannot write {folder}/out/evaluation.json: Is a directory. Choose another path.'
  )


def test_a_damaged_image(folder, capsys):
  path = folder / 'images/val/b/7.png'
  path.write_bytes(path.read_bytes()[:60])
  base = [f'--checkpoint={folder}/model.npz', f'--dataset={folder}/images']
  assert str(path) in fails(capsys, *base)
  report = evaluate(capsys, *base, '--max_bad_records=1')
  assert report['images'] == 8 and report['bad_records'] == [str(path)]


def listed(path):
  with open(path, newline='', encoding='utf-8') as f:
    return list(csv.DictReader(f))


def test_every_image_is_listed(folder, capsys):
  """The table has the predictions of plain loops, and a row for an image that was left out."""
  path = folder / 'images/val/b/7.png'
  path.write_bytes(path.read_bytes()[:60])
  report = evaluate(
    capsys,
    f'--checkpoint={folder}/model.npz',
    f'--dataset={folder}/images',
    '--max_bad_records=1',
    f'--out={folder}/out',
  )
  model = create_model('ViT-Ti/8', num_classes=4, image_size=8, **TINY)
  params = load_params(folder / 'model.npz', model)
  prepare = preprocess.make_eval_preprocess('bit', 8)
  rows = listed(folder / 'out' / 'predictions.csv')
  files = sorted((folder / 'images/val').rglob('*.png'), key=lambda p: (p.parent.name, p.name))
  assert [row['path'] for row in rows] == list(map(str, files)) and len(rows) == 9
  for row, file in zip(rows, files, strict=True):
    if file == path:
      assert not any(row[name] for name in ('label', 'prediction', 'probability', 'correct'))
      continue
    logits = logits_of(model, params, [prepare(file.read_bytes(), None)])[0]
    assert row['label'] == file.parent.name and row['prediction'] == 'abcd'[logits.argmax()]
    share = np.exp(logits.max()) / np.exp(logits).sum()
    assert float(row['probability']) == pytest.approx(share, rel=1e-4)
    assert row['correct'] == str(row['label'] == row['prediction'])
  assert sum(row['correct'] == 'True' for row in rows) == report['correct']


def test_a_parquet_table(folder, capsys):
  parquet = pytest.importorskip('pyarrow.parquet')
  base = [f'--checkpoint={folder}/model.npz', f'--dataset={folder}/images']
  evaluate(capsys, *base, f'--predictions={folder}/a.parquet')
  evaluate(capsys, *base, f'--predictions={folder}/a.csv')
  rows = parquet.read_table(folder / 'a.parquet').to_pylist()
  assert [{k: str(v) for k, v in row.items() if k != 'probability'} for row in rows] == [
    {k: v for k, v in row.items() if k != 'probability'} for row in listed(folder / 'a.csv')
  ]
  assert fails(capsys, *base, f'--predictions={folder}/a.txt') == (
    f'Cannot write {folder}/a.txt: a table of images ends in .csv or .parquet.'
  )


def test_parquet_without_its_package(folder, capsys, monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  base = [f'--checkpoint={folder}/model.npz', f'--dataset={folder}/images']
  assert fails(capsys, *base, f'--predictions={folder}/a.parquet') == (
    f'Cannot write {folder}/a.parquet: run `pip install pyarrow`, or write a .csv file.'
  )


def test_classes_in_another_order(folder, capsys, caplog):
  """They are matched by name: the report is that of the same model with its classes in order."""
  model = create_model('ViT-Ti/8', num_classes=4, image_size=8, **TINY)
  params = load_params(folder / 'model.npz', model)
  base = [f'--checkpoint={folder}/orbax', f'--dataset={folder}/images']
  save_params(params, folder / 'orbax', class_names=list('abcd'))
  report = evaluate(capsys, *base, f'--predictions={folder}/ordered.csv')
  assert not any('in the model' in m for m in caplog.messages)
  moved = [2, 0, 3, 1]
  params['head'] = {name: x[..., moved] for name, x in params['head'].items()}
  save_params(params, folder / 'orbax', class_names=['abcd'[i] for i in moved])
  again = evaluate(capsys, *base, f'--predictions={folder}/moved.csv')
  assert [m for m in caplog.messages if 'in the model' in m] == [
    f'Some classes of {folder}/images have another number in the model. They are matched by name.'
  ]
  for name in ('accuracy', 'classes', 'confusions'):
    assert again[name] == report[name]
  assert again['loss'] == pytest.approx(report['loss'], rel=1e-6)
  table = lambda name: [row | {'probability': 0} for row in listed(folder / name)]
  assert table('moved.csv') == table('ordered.csv')
  save_params(params, folder / 'orbax', class_names=['a', 'c', 'b', 'x'])
  assert fails(capsys, *base) == (
    f"The model of {folder}/orbax does not have these classes of {folder}/images: 'd'. Its classes "
    "are 'a'; 'c'; 'b' and 1 more. Rename the classes of one of them, or pass "
    f'--match_classes=position if class k of the model is class k of {folder}/images.'
  )
  assert evaluate(capsys, *base, '--match_classes=position')['images'] == 9


def test_a_wider_head(tmp_path, digits_dir, capsys, caplog):
  save_model(tmp_path / 'model.npz', num_classes=12)
  report = evaluate(
    capsys,
    f'--checkpoint={tmp_path}/model.npz',
    '--dataset=digits',
    f'--data_dir={digits_dir}',
    '--split=test[:40]',
    f'--out={tmp_path}/out',
  )
  assert len(report['classes']) == 10 and report['images'] == 40
  assert {'class 10', 'class 11'} & {c['predicted_name'] for c in report['confusions']}
  assert 'The model has 12 classes. The first 10 are taken to be those of digits.' in (
    caplog.messages
  )


@pytest.mark.parametrize(
  'args, words',
  [
    (
      [],
      'No training run wrote ROOT/model.npz, so its dataset is unknown. Choose one with --dataset.',
    ),
    (
      ['--dataset=digits'],
      'The model of ROOT/model.npz has 4 classes, but digits has 10 classes. '
      'Fine-tune it on digits first.',
    ),
    (
      ['--dataset=digits', '--labels=real'],
      '--labels=real is only for the validation images of imagenet2012. Leave it out for '
      '--dataset=digits.',
    ),
    (['--labels=real'], 'The dataset imagenet2012_real is not prepared in'),
    (
      ['--dataset=ROOT/images', '--class_names=ROOT/one'],
      'ROOT/one must have one line for each of the 4 classes of the model, but it has 1.',
    ),
    (['--dataset=ROOT/images', '--split=test'], "Unknown split 'test'. Available: train, val."),
    (
      ['--dataset=ROOT/images', '--batch_size=12'],
      'batch_size=12 does not divide over 8 devices. Try batch_size=16.',
    ),
    (['--dataset=ROOT/images', '--batch_size=0'], '--batch_size must be at least 1, but it is 0.'),
    (
      ['--dataset=ROOT/images', '--image_size=8,16', '--preset=inception'],
      "The preset 'inception' crops squares, but the images of the model are 8x16 pixels. "
      "Use the preset 'bit'.",
    ),
    (
      ['--dataset=ROOT/images', '--preset=inception', '--resize_size=7'],
      'resize_size (7) is smaller than image_size (8)',
    ),
    (
      ['--dataset=ROOT/images', '--resize_size=9'],
      '--resize_size=9 has no effect with the preset bit, which does not crop. Leave it out, or '
      'pass --preset=inception.',
    ),
    (
      ['--dataset=ROOT/images', '--out=ROOT/model.npz'],
      'Cannot write to ROOT/model.npz: File exists. Choose another path.',
    ),
    (
      ['--dataset=ROOT/images', '--out=gs://bucket/results'],
      'Write to a local path and copy the result there.',
    ),
    (['--dataset=ROOT/images', '--checkpoint=ROOT/none.npz'], 'none.npz: no such file'),
  ],
)
def test_errors(args, words, folder, digits_dir, capsys):
  (folder / 'one').write_text('a\n')
  message = fails(
    capsys,
    f'--checkpoint={folder}/model.npz',
    f'--data_dir={digits_dir}',
    *(arg.replace('ROOT', str(folder)) for arg in args),
  )
  assert words.replace('ROOT', str(folder)) in message


def test_no_split_to_evaluate_on(folder, capsys):
  shutil.rmtree(folder / 'images/val')
  assert fails(capsys, f'--checkpoint={folder}/model.npz', f'--dataset={folder}/images') == (
    f'Dataset {folder}/images has no evaluation split. Choose a split with --split.'
  )


def test_outputs_that_are_not_finite(folder, capsys):
  model = create_model('ViT-Ti/8', num_classes=4, image_size=8, **TINY)
  params = load_params(folder / 'model.npz', model)
  params['head']['kernel'] = np.full((16, 4), 3e38, np.float32)
  save_params(params, folder / 'huge.npz')
  assert (
    'The outputs of the model are not finite for 9 of 9 images. Its parameters are broken or'
    in fails(capsys, f'--checkpoint={folder}/huge.npz', f'--dataset={folder}/images')
  )


def test_no_image_has_a_label(real, capsys):
  directory, _, _ = real
  assert fails(
    capsys,
    f'--checkpoint={directory}/model.npz',
    f'--data_dir={directory}',
    '--labels=real',
    '--split=validation[3:4]',
  ) == ('Nothing to evaluate: none of the images has a label.')


def test_progress(folder, capsys, monkeypatch):
  monkeypatch.setattr('sys.stderr.isatty', lambda: True, raising=False)
  assert tool.main([f'--checkpoint={folder}/model.npz', f'--dataset={folder}/images']) == 0
  assert '9/9' in capsys.readouterr().err


def test_ctrl_c(folder, capsys, monkeypatch):
  make_step = predictions.make_predict_step

  def make(*args, **kwargs):
    step = make_step(*args, **kwargs)

    def interrupted(params, batch):  # Ctrl-C comes while the program compiles and images are read
      os.kill(os.getpid(), signal.SIGINT)
      return step(params, batch)

    return interrupted

  monkeypatch.setattr(predictions, 'make_predict_step', make)
  assert (
    tool.main(
      [f'--checkpoint={folder}/model.npz', f'--dataset={folder}/images', f'--out={folder}/out']
    )
    == 130
  )
  assert capsys.readouterr().err == 'error: Interrupted before the end.\n'
  assert not list((folder / 'out').iterdir())


def test_help_names_every_kind_of_data(capsys):
  with pytest.raises(SystemExit):
    tool.main(['--help'])
  text = capsys.readouterr().out
  assert all(kind in text for kind in ('vtab/pets', 'labels.csv', 'wds:PATTERN', 'hf:NAME'))
