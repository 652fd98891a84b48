"""The predict tool prints predictions of the images it is given, and errors for the others."""

import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.images import encode, smooth_image
from tests.helpers.paths import FILES
from vit_jax import create_model, load_model, load_params, predict, save_params
from vit_jax.inference.predict import Prediction
from vit_jax.tools import predict as tool
from vit_jax.training.checkpoint import Checkpoints

DATA = FILES
CHECKPOINT = f'--checkpoint={DATA}/vit_token.npz'
TINY = dict(hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2)


@pytest.fixture(scope='module')
def loaded():
  model = create_model('ViT-Ti/8', num_classes=10, image_size=32, **TINY)
  return model, load_params(DATA / 'vit_token.npz', model)


@pytest.fixture
def album(tmp_path):
  """Write five images among other files. Return the folder."""
  for i, (name, kind) in enumerate(
    [
      ('b.JPG', 'JPEG'),
      ('a.png', 'PNG'),
      ('trip/2/d.webp', 'WEBP'),
      ('trip/1.jpeg', 'JPEG'),
      ('trip/2/c.png', 'PNG'),
    ]
  ):
    path = tmp_path / 'album' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(smooth_image(40 + i, 50, seed=i), kind))
  for name in ('notes.txt', '.hidden.png', 'trip/.cache/x.png', 'empty/readme.md'):
    path = tmp_path / 'album' / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'')
  return tmp_path / 'album'


@pytest.mark.slow
@pytest.mark.parametrize('as_json', [False, True])
def test_python_without_docstrings_and_a_terminal_without_umlauts(tmp_path, as_json):
  folder = os.fsencode(tmp_path / 'n\u00e9 \u65e5')
  os.mkdir(folder)
  with open(os.path.join(folder, b'caf\xe9\n.png'), 'wb') as f:
    f.write(encode(smooth_image(40, 50), 'PNG'))
  names = tmp_path / 'names'
  names.write_text('\u00e9\n' * 10, encoding='utf-8')
  command = [sys.executable, '-OO', '-m', 'vit_jax.tools.predict', CHECKPOINT, '--top_k=1']
  command += [f'--labels={names}', folder] + ['--json'] * as_json
  environment = {k: v for k, v in os.environ.items() if k not in ('HOME', 'LANG', 'LC_CTYPE')} | {
    'LC_ALL': 'C',
    'PYTHONIOENCODING': 'ascii',
  }
  done = subprocess.run(command, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  if as_json:
    (line,) = lines(done.stdout)
    assert os.fsencode(line['path']) == os.path.join(folder, b'caf\xe9\n.png')
    assert [p['name'] for p in line['predictions']] == ['\u00e9']
  else:
    path, prediction = done.stdout.splitlines()
    assert path == f'{tmp_path}/n\\xe9 \\u65e5/caf\\ufffd\\n.png'
    assert prediction.endswith('  \\xe9')


def lines(text):
  return [json.loads(line) for line in text.splitlines()]


def as_lines(paths, results):
  return [
    {
      'path': str(path),
      'predictions': [
        {'class': p.label, 'name': p.name, 'probability': p.probability} for p in result
      ],
    }
    for path, result in zip(paths, results)
  ]


def test_table():
  assert (
    tool.as_table(
      'photos/cat.jpg',
      [
        Prediction(281, 'tabby', 0.93214),
        Prediction(282, 'tiger cat', 0.0401),
        Prediction(21842, 'some more', 0.0),
      ],
    )
    == """\
photos/cat.jpg
   93.21%    281  tabby
    4.01%    282  tiger cat
    0.00%  21842  some more"""
  )
  assert tool.as_table('all', [Prediction(0, 'sure', 1.0)]) == 'all\n  100.00%      0  sure'
  assert tool.as_table('b\udcff.png', []) == 'b\ufffd.png'


def test_table_by_command_line(album, loaded, capsys):
  assert tool.main([CHECKPOINT, '--top_k=2', f'{album}/b.JPG', f'{album}/a.png']) == 0
  results = predict(*loaded, [album / 'b.JPG', album / 'a.png'], top_k=2)
  assert capsys.readouterr().out == ''.join(
    tool.as_table(f'{album}/{name}', result) + '\n'
    for name, result in zip(['b.JPG', 'a.png'], results)
  )


def test_json_of_a_folder(album, loaded, capsys):
  assert tool.main([CHECKPOINT, '--json', '--batch_size=4', f'{album}/b.JPG', str(album)]) == 0
  out, err = capsys.readouterr()
  paths = [
    album / name
    for name in ('b.JPG', 'a.png', 'b.JPG', 'trip/1.jpeg', 'trip/2/c.png', 'trip/2/d.webp')
  ]
  assert lines(out) == as_lines(paths, predict(*loaded, paths, batch_size=4))
  assert err == ''


def test_an_image_that_cannot_be_read_among_others(album, loaded, capsys):
  (album / 'broken.jpg').write_bytes(b'\xff\xd8')
  (album / 'page.png').write_bytes(b'<html>')
  assert tool.main([CHECKPOINT, '--json', str(album)]) == 1
  out, err = capsys.readouterr()
  assert [pathlib.Path(line['path']).name for line in lines(out)] == [
    'a.png',
    'b.JPG',
    '1.jpeg',
    'c.png',
    'd.webp',
  ]
  assert err.splitlines() == [
    f'error: Cannot read {album}/broken.jpg: damaged JPEG: its header is broken.',
    f"error: Cannot read {album}/page.png: not an image file: it starts with b'<html>'.",
  ]


def test_standard_input(album, loaded, monkeypatch, capsys):
  stdin = lambda data: monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data)))
  stdin((album / 'a.png').read_bytes())
  assert tool.main([CHECKPOINT, '--json', '-']) == 0
  assert lines(capsys.readouterr().out) == as_lines('-', predict(*loaded, album / 'a.png'))
  stdin(f'{album}/trip/1.jpeg\r\n\n{album}/none.png\n{album}/a.png'.encode())
  assert tool.main([CHECKPOINT, '--json', '--files_from=-']) == 1
  out, err = capsys.readouterr()
  assert [line['path'] for line in lines(out)] == [f'{album}/trip/1.jpeg', f'{album}/a.png']
  assert err == f'error: Cannot read {album}/none.png: No such file or directory.\n'


def test_files_from_a_file(album, capsys):
  (album / 'list').write_text(f'{album}/b.JPG\n')
  assert tool.main([CHECKPOINT, '--json', f'--files_from={album}/list', f'{album}/a.png']) == 0
  assert [line['path'] for line in lines(capsys.readouterr().out)] == [
    f'{album}/a.png',
    f'{album}/b.JPG',
  ]


def test_labels(album, capsys):
  (album / 'labels').write_text(''.join(f'Sorte {i}\n' for i in range(10)))
  run = lambda: tool.main([CHECKPOINT, f'--labels={album}/labels', '--json', f'{album}/a.png'])
  assert run() == 0
  predictions = lines(capsys.readouterr().out)[0]['predictions']
  assert [p['name'] for p in predictions] == [f'Sorte {p["class"]}' for p in predictions]
  (album / 'labels').write_text('cat\ndog\n')
  assert run() == 1
  assert capsys.readouterr().err == (
    f'error: {album}/labels must have one line for each of the 10 classes of the model, but it '
    'has 2.\n'
  )
  (album / 'labels').unlink()
  assert run() == 1
  assert capsys.readouterr().err == (
    f'error: Cannot read {album}/labels: No such file or directory.\n'
  )


def test_a_training_run(album, tmp_path, capsys):
  """Model fields, preprocessing, loss and names all come from the checkpoint and its config."""
  model = create_model('ViT-Ti/8', num_classes=10, image_size=32, activation='gelu', **TINY)
  params = load_params(DATA / 'vit_token.npz', model)
  workdir = tmp_path / 'run'
  config = dict(
    model='ViT-Ti/8',
    dataset='digits',
    image_size=32,
    activation='gelu',
    preset='inception',
    resize_size=48,
    loss='sigmoid',
    dtype='bfloat16',
    a_field_of_old=3,
    **TINY,
  )
  (workdir / 'checkpoints').mkdir(parents=True)
  (workdir / 'config.json').write_text(json.dumps(config))
  checkpoints = Checkpoints(workdir / 'checkpoints')
  checkpoints.save(7, {'params': params}, {'model': 'ViT-Ti/8', 'class_names': ['yes', 'no']})
  checkpoints.close()
  names = ['yes', 'no'] + [f'class {i}' for i in range(2, 10)]  # the head is wider than the data
  want = as_lines(
    [album / 'a.png'],
    predict(
      model,
      params,
      album / 'a.png',
      preset='inception',
      resize_size=48,
      eval_filter='bilinear',  # the default when this run was trained
      loss='sigmoid',
      class_names=names,
      top_k=10,
    ),
  )
  assert (
    as_lines([album / 'a.png'], predict(*load_model(workdir)[:2], album / 'a.png', top_k=10))
    == want
  )
  for path in (workdir, workdir / 'checkpoints', workdir / 'checkpoints' / '7'):
    command = [f'--checkpoint={path}', '--json', '--top_k=10', f'{album}/a.png']
    assert tool.main(command) == 0
    assert lines(capsys.readouterr().out) == want
  assert (
    tool.main(
      [
        *command,
        '--loss=softmax',
        '--preset=bit',
        '--override=activation=gelu_tanh',
        '--dtype=bfloat16',
      ]
    )
    == 0
  )
  bfloat16 = create_model('ViT-Ti/8', num_classes=10, image_size=32, dtype='bfloat16', **TINY)
  assert lines(capsys.readouterr().out) == as_lines(
    [album / 'a.png'], predict(bfloat16, params, album / 'a.png', class_names=names, top_k=10)
  )
  (workdir / 'config.json').write_text('{"model": 3}')
  assert tool.main(command) == 1
  error = f'error: {workdir}/config.json is not the config of a run: it does not name a model and a'
  assert f'{error} dataset.' in capsys.readouterr().err


def test_a_pytorch_checkpoint_brings_its_activation(album, capsys):
  assert tool.main([f'--checkpoint={DATA}/timm_tiny', '--json', f'{album}/a.png']) == 0
  model = create_model(
    'ViT-Ti/8', num_classes=10, image_size=32, activation='gelu', **TINY | dict(mlp_dim=128)
  )
  params = load_params(DATA / 'timm_tiny', model)
  assert lines(capsys.readouterr().out) == as_lines(
    [album / 'a.png'], predict(model, params, album / 'a.png')
  )


def test_another_image_size(album, capsys, caplog):
  assert tool.main([CHECKPOINT, '--image_size=16,48', '--json', f'{album}/a.png']) == 0
  model = create_model('ViT-Ti/8', num_classes=10, image_size=(16, 48), **TINY)
  params = load_params(DATA / 'vit_token.npz', model)
  assert lines(capsys.readouterr().out) == as_lines(
    [album / 'a.png'], predict(model, params, album / 'a.png')
  )
  assert 'Resized' in caplog.text


def test_a_head_of_zeros(album, loaded, tmp_path, capsys, caplog):
  model, params = loaded
  zeros = {'kernel': np.zeros((32, 10), np.float32), 'bias': np.zeros(10, np.float32)}
  save_params(params | {'head': zeros}, tmp_path / 'original.npz')
  assert tool.main([f'--checkpoint={tmp_path}/original.npz', f'{album}/a.png']) == 0
  assert caplog.messages == [
    f'The head of {tmp_path}/original.npz is all zeros, as in the original ImageNet-21k '
    'checkpoints. It was not trained, so its predictions are meaningless.'
  ]
  assert '   10.00%      0  class 0\n' in capsys.readouterr().out


@pytest.mark.parametrize(
  'args, words',
  [
    ([], 'No images. Name files or folders, - for standard input, or a list'),
    (['ALBUM/nowhere'], 'Cannot read ALBUM/nowhere: no such file or folder.'),
    (['ALBUM/empty'], 'The folder ALBUM/empty has no images of a known format.'),
    (['--files_from=ALBUM/notes.txt'], 'ALBUM/notes.txt lists no images.'),
    (['--files_from=ALBUM/none'], 'Cannot read ALBUM/none: No such file or directory.'),
    (['ALBUM/a.png', '--checkpoint=ALBUM/none.npz'], 'ALBUM/none.npz: no such file'),
    (
      ['ALBUM/a.png', '--model=ViT-B/16'],
      'vit_token.npz does not fit the model. Choose the model that the file was written for.',
    ),
    (['ALBUM/a.png', '--override=registres=4'], "field 'registres'. Did you mean 'registers'?"),
    (['ALBUM/a.png', '--image_size=33'], 'image_size 33x33 is not a multiple of the patch size'),
    (['ALBUM/a.png', '--top_k=0'], 'top_k must be at least 1, but it is 0.'),
  ],
)
def test_errors(args, words, album, capsys):
  assert tool.main([CHECKPOINT, *(arg.replace('ALBUM', str(album)) for arg in args)]) == 1
  out, err = capsys.readouterr()
  assert err.startswith('error: ') and len(err.splitlines()) == 1 and out == ''
  assert words.replace('ALBUM', str(album)) in err


@pytest.mark.parametrize('args', [['--image_size=1,2,3'], ['--override=head'], ['--preset=vgg']])
def test_flags_that_cannot_be_parsed(args):
  with pytest.raises(SystemExit) as e:
    tool.main([CHECKPOINT, *args, 'a.png'])
  assert e.value.code == 2


def test_progress(album, capsys, monkeypatch):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  assert tool.main([CHECKPOINT, '--json', str(album)]) == 0
  out, err = capsys.readouterr()
  assert '5/5' in err and len(lines(out)) == 5


def test_a_closed_pipe(album):
  """The reader closes the pipe after the first line."""
  command = [
    sys.executable,
    '-m',
    'vit_jax.tools.predict',
    CHECKPOINT,
    '--json',
    *[str(album)] * 200,
  ]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    first = json.loads(process.stdout.readline())
    process.stdout.close()
    note = f'warning: {album}: Left out 2 files that are not images (1 .txt; 1 .md) and 2 hidden.\n'
    assert process.wait(60) == 0 and process.stderr.read().decode() == note
  assert first['path'] == f'{album}/a.png'
