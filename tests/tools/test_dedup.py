"""The dedup tool finds planted near-duplicates, on several of Beam's runners."""

import pathlib

import cv2
import jax
import numpy as np
import pytest

from tests.helpers.images import smooth_image
from vit_jax import create_model, save_params
from vit_jax.data.folder import sample
from vit_jax.dedup.ids_file import excluded_positions, read_ids
from vit_jax.tools import dedup

pytest.importorskip('apache_beam')
pytest.importorskip('imagehash')

RUNNERS = {
  'this process': [],
  'threads': ['--direct_running_mode=multi_threading', '--direct_num_workers=3'],
  'processes': ['--direct_running_mode=multi_processing', '--direct_num_workers=2'],
  'another runner': ['--runner', 'BundleBasedDirectRunner'],
}
PLANTED = {7: 3, 8: 3, 20: 0, 33: 11}  # training image -> the test image that it is a copy of


def image(seed):
  """Return an image (64, 80, 3) of a few large shapes and smaller ones."""
  return cv2.addWeighted(
    smooth_image(64, 80, seed),
    0.7,
    cv2.blur(np.random.default_rng(seed).integers(0, 256, (64, 80, 3), np.uint8), (9, 9)),
    0.9,
    0,
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Write 40 training images, 4 of them altered copies, and 12 test images, the second damaged."""
  root = tmp_path_factory.mktemp('photos')
  changes = {
    7: lambda x: x[:, ::-1],
    8: lambda x: x[3:, :-4],
    20: lambda x: x,
    33: lambda x: np.pad(x, ((6, 6), (6, 6), (0, 0)), constant_values=255),
  }
  for split, count, first in (('train', 40, 100), ('val', 12, 0)):
    (root / split / 'all').mkdir(parents=True)
    for i in range(count):
      pixels = (
        image(first + i) if split == 'val' or i not in PLANTED else changes[i](image(PLANTED[i]))
      )
      cv2.imwrite(str(root / split / 'all' / f'{i:02}.png'), pixels)
  (root / 'val' / 'all' / '01.png').write_bytes(b'\x89PNG\r\n\x1a\nnothing')
  return str(root)


def run(tmp_path, folder, *more, code=0):
  assert (
    dedup.main([f'--train={folder}', f'--against={folder}', f'--out={tmp_path}/ids.txt', *more])
    == code
  )
  return tmp_path / 'ids.txt'


@pytest.fixture(scope='module')
def ids(tmp_path_factory, folder):
  return run(tmp_path_factory.mktemp('ids'), folder)


def test_finds_what_was_planted(folder, ids):
  file = read_ids(ids)
  assert file.indices['train'].tolist() == sorted(PLANTED)
  rest = sample(40, 10, 40)  # the sample of the folder that a slice takes
  assert excluded_positions(file, folder, 'train[10:]').tolist() == [
    i for i, image in enumerate(rest) if image in PLANTED
  ]
  for line in ids.read_text().splitlines()[6:]:
    id, reason = line.split('#')
    assert reason.endswith(f':val {PLANTED[int(id.split()[1])]}')
  assert f'train 20  # distance 0 to {folder}:val 0' in ids.read_text()
  assert [path.name for path in ids.parent.iterdir()] == ['ids.txt']  # the temporary files are gone


@pytest.mark.parametrize('flags', RUNNERS.values(), ids=RUNNERS)
def test_the_same_file_whatever_the_runner(folder, ids, tmp_path, flags):
  assert run(tmp_path, folder, *flags).read_bytes() == ids.read_bytes()


def test_leftovers_of_a_killed_run_are_not_read(folder, ids, tmp_path):
  parts = tmp_path / 'ids.txt.parts'
  parts.mkdir()
  (parts / 'part-00007-of-00008').write_text('{"pairs": [[1, 1, 0]]}\n')
  assert run(tmp_path, folder).read_bytes() == ids.read_bytes()


def test_several_test_sets(folder, digits_dir, tmp_path, capsys, caplog):
  """Images are numbered across the sets. Those that cannot be decoded are named."""
  slices = 'train[1:2]+val[:6]+val[8:10]+val[11:]'  # the slices of a folder are samples
  assert sample(40, 1, 2) == [20] and not {0, 1} & {
    *sample(12, 0, 6),
    *sample(12, 8, 10),
    *sample(12, 11, 12),
  }
  path = run(
    tmp_path, folder, f'--against=digits:test[:20],{folder}:{slices}', f'--data_dir={digits_dir}'
  )
  text = path.read_text()
  assert f'# against: digits:test[:20],{folder}:{slices}\n' in text
  assert {int(line.split()[1]) for line in text.splitlines()[6:]} == {7, 8, 20, 33}
  assert f'train 20  # distance 0 to {folder}:train 20\n' in text
  assert f'{folder}:val 3\n' in text and f'{folder}:val 11\n' in text
  assert (
    f'4 of 40 images of {folder}:train are near-duplicates of 3 of 30 test images: {path}\n'
    == capsys.readouterr().out
  )
  assert not caplog.messages
  run(tmp_path, folder, f'--data_dir={digits_dir}')
  assert caplog.messages == [
    f'Left out images that cannot be decoded: 1. The first is {folder}:val 1.'
  ]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  path = tmp_path_factory.mktemp('model') / 'vit.npz'
  model = create_model(
    'ViT-Ti/16', num_classes=3, image_size=32, hidden_dim=32, mlp_dim=64, num_layers=1, num_heads=2
  )
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))['params']
  save_params(params, path)
  return path


def test_a_model_has_the_last_word(folder, checkpoint, tmp_path):
  """The unchanged copy has distance 0 and stays. The cropped one is dropped."""
  model = [f'--embedding_checkpoint={checkpoint}', '--threshold=10']
  all_of_them = run(tmp_path, folder, *model, '--max_embedding_distance=2').read_text()
  far = {int(line.split()[1]): float(line.split()[6]) for line in all_of_them.splitlines()[6:]}
  assert far.keys() >= PLANTED.keys()
  assert far[20] < 1e-6 and far[7] < 1e-6 < far[8]  # the test image is also mirrored
  few = run(tmp_path, folder, *model, '--max_embedding_distance=1e-6')
  assert '# threshold: 10, embedding 1e-06\n' in few.read_text()
  assert read_ids(few).indices['train'].tolist() == [7, 20]
  assert 'train 20  # distance 0, embedding 0.000 to ' in few.read_text()
  assert not set(sample(40, 5, 10)) & PLANTED.keys()
  none = run(
    tmp_path, folder, *model, f'--train={folder}:train[5:10]', '--max_embedding_distance=1'
  )
  assert read_ids(none).indices['train'].tolist() == []


def test_contact_sheet(folder, tmp_path):
  run(tmp_path, folder, f'--contact_sheet={tmp_path}/pairs.png')
  sheet = cv2.imread(f'{tmp_path}/pairs.png')
  assert sheet.shape == (39 + 128 + 3 * 15 + 12, 12 + 4 * 270, 3)
  lefts, rights = (
    [sheet[39 : 39 + 128, x : x + 128] for x in range(first, first + 4 * 270, 270)]
    for first in (12, 142)
  )
  assert all(len(np.unique(image)) > 50 for image in lefts + rights)
  assert sum(np.array_equal(a, b) for a, b in zip(lefts, rights)) == 1  # the exact copy


ERRORS = {
  'no such flag': (['--thresholds=3'], 'There is no flag --thresholds. Did you mean --threshold?'),
  'a stray word': (
    ['cifar100'],
    "'cifar100' is not a flag. Separate the datasets of --against by commas.",
  ),
  'threshold': (['--threshold=30'], 'The threshold must be from 0 to 16 bits, but it is 30.'),
  'model without distance': (
    ['--embedding_checkpoint=x.npz'],
    'Pass both --embedding_checkpoint and --max_embedding_distance, or neither.',
  ),
  'sheet': (['--contact_sheet=pairs.jpg'], '--contact_sheet=pairs.jpg must end in .png.'),
  'no folder': (
    ['--out=/nowhere/ids.txt'],
    'Cannot write /nowhere/ids.txt: its folder does not exist. Create it first.',
  ),
  'no dataset': (['--train=./nothing'], 'There is no folder ./nothing. Check the path.'),
  'no split': (['--against=digits:valid'], "Unknown split 'valid'. Available: train, test."),
}


@pytest.mark.parametrize('flags, message', ERRORS.values(), ids=ERRORS)
def test_errors(folder, digits_dir, tmp_path, capsys, flags, message):
  run(tmp_path, folder, f'--data_dir={digits_dir}', *flags, code=1)
  assert capsys.readouterr().err == f'error: {message}\n'
  assert not list(pathlib.Path(tmp_path).iterdir())


def test_a_worker_that_cannot_go_on_says_why(tmp_path, folder, capsys):
  """No source reads a test set whose labels are -1, like that of ImageNet."""
  from tests.helpers.shapes import write_shapes

  write_shapes(tmp_path / 'data', first_label=0, label=lambda i: -1 if i == 1009 else 0)
  capsys.readouterr()
  run(tmp_path, folder, '--against=shapes:test', f'--data_dir={tmp_path}/data', code=1)
  err = capsys.readouterr().err
  assert err.startswith('error: ') and 'has the label -1, which is not in [0, 3).' in err
  assert err.count('\n') == 1 and not (tmp_path / 'ids.txt').exists()
