"""The figures tool writes the figures that apply to a model, and says why others do not."""

import json

import cv2
import jax
import numpy as np
import pytest

from tests.helpers.images import encode, smooth_image
from tests.helpers.paths import FILES
from vit_jax import create_model, save_params
from vit_jax.tools import figures as tool

DATA = FILES
PICTURES = [
  'attention_distance.png',
  'attention_maps.png',
  'filters.png',
  'position_similarity.png',
  'rollout.png',
]
TINY = dict(hidden_dim=16, mlp_dim=16, num_heads=2, num_layers=2)


@pytest.fixture
def album(tmp_path):
  for i in range(3):
    (tmp_path / f'{i}.png').write_bytes(encode(smooth_image(20 + i, 24, seed=i), 'PNG'))
  return sorted(map(str, tmp_path.glob('*.png')))


def run(capsys, tmp_path, *args):
  """Run the tool. Return (exit code, lines of output, error, {picture: its pixels})."""
  out = tmp_path / 'out'
  code = tool.main([*map(str, args), f'--out={out}'])
  text, error = capsys.readouterr()
  pictures = {p.name: cv2.imread(str(p)) for p in sorted(out.iterdir())} if out.exists() else {}
  for path in out.iterdir() if out.exists() else ():
    assert path.stat().st_size < 300_000
  return code, text.splitlines(), error, pictures


def save(path, name, **overrides):
  model = create_model(name, num_classes=3, **overrides)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), np.zeros((1, *model.image_size, 3), np.float32))
  )
  save_params(
    jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes['params']), path
  )
  return path


def test_all_pictures(capsys, tmp_path, album):
  code, lines, error, pictures = run(
    capsys, tmp_path, f'--checkpoint={DATA}/vit_token.npz', '--images', *album, '--batch_size=2'
  )
  assert (code, error, list(pictures)) == (0, '', PICTURES)
  assert lines[0] == (
    'Not drawn: curves. The checkpoint does not belong to a run with a metrics.jsonl. Name runs '
    'with --runs.'
  )
  assert sorted(line.removeprefix(f'wrote {tmp_path}/out/') for line in lines[1:]) == PICTURES
  assert all(min(picture.shape[:2]) > 150 and picture.std() > 5 for picture in pictures.values())


def test_photographs_are_at_hand(capsys, tmp_path):
  code, lines, _, pictures = run(
    capsys, tmp_path, f'--checkpoint={DATA}/dialect2_map.npz', '--heads=max'
  )
  assert (code, list(pictures)) == (0, PICTURES)


@pytest.mark.parametrize(
  'name, overrides, flags, sentences',
  [
    ('ViT-Ti/4', dict(head='gap', attention='axial', **TINY), [], []),
    ('ViT-Ti/4', dict(registers=2, **TINY), [], []),
    ('R+ViT-Ti/4', dict(head='gap', **TINY), [], []),
    (
      'ViT-Ti/4',
      dict(pos_embedding='none', **TINY),
      ['--override=pos_embedding=none'],
      [
        'Not drawn: position similarity. The model has no position embedding '
        "(pos_embedding='none')."
      ],
    ),
    (
      'ViT-Ti/4',
      dict(pos_embedding='relative', **TINY),
      [],
      [
        'Not drawn: position similarity. The model embeds relative positions, so no position has '
        'its own embedding.'
      ],
    ),
    (
      'BiT-R50x1',
      {},
      [],
      [
        'Not drawn: position similarity. A BiT ResNet has no position embedding.',
        'Not drawn: attention distance, rollout and maps. A BiT ResNet has no attention.',
      ],
    ),
  ],
  ids=str,
)
def test_what_a_model_does_not_have_is_left_out(
  capsys, tmp_path, album, name, overrides, flags, sentences
):
  path = save(tmp_path / 'x.npz', name, image_size=16, **overrides)
  code, lines, error, pictures = run(
    capsys, tmp_path, f'--checkpoint={path}', '--image_size=16', *flags, '--images', album[0]
  )
  assert (code, error) == (0, '')
  assert [line for line in lines[1:] if not line.startswith('wrote')] == sentences
  left_out = ['position_similarity.png'] * any('position' in s for s in sentences) + [
    p for p in PICTURES if name == 'BiT-R50x1' and ('attention' in p or 'rollout' in p)
  ]
  assert list(pictures) == [p for p in PICTURES if p not in left_out]


def test_curves(capsys, tmp_path, album):
  for name in 'ab':
    (tmp_path / name).mkdir()
    (tmp_path / name / 'metrics.jsonl').write_text(
      ''.join(json.dumps({'step': i, 'train/loss': 1 / i}) + '\n' for i in range(1, 5))
    )
  checkpoint = f'--checkpoint={DATA}/vit_gap.npz'
  runs = ['--runs', tmp_path / 'a', tmp_path / 'b']
  code, lines, _, pictures = run(capsys, tmp_path, checkpoint, *runs, '--images', album[0])
  assert (code, lines[0]) == (0, f'wrote {tmp_path}/out/curves.png')
  assert 'curves.png' in pictures
  code, _, error, _ = run(capsys, tmp_path, checkpoint, *runs, '--metrics', 'eval/loss')
  assert (code, error) == (
    1,
    "error: Unknown metric 'eval/loss'. Did you mean 'train/loss'? Available: train/loss.\n",
  )


@pytest.mark.parametrize(
  'args, words',
  [
    (['--layer=2'], 'There is no attention layer 2. The model has layers 0 to 1.\n'),
    (['--num_images=0'], '--num_images must be at least 1, but it is 0.\n'),
    (['--images', 'nowhere'], 'Cannot read nowhere: no such file or folder.'),
    (['--images', __file__], f'Cannot read {__file__}: not an image file'),
  ],
)
def test_errors(capsys, tmp_path, args, words):
  code, _, error, _ = run(capsys, tmp_path, f'--checkpoint={DATA}/vit_gap.npz', *args)
  assert (code, error.startswith(f'error: {words}')) == (1, True), error
  assert error.count('\n') == 1
