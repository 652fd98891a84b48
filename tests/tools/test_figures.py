"""The figures tool: which pictures it writes of which models, and what it says of the others."""

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
  """Returns (exit code, lines of output, error, {picture: its pixels})."""
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
    'no curves: the checkpoint is of no run with a metrics.jsonl; name runs with --runs'
  )
  assert sorted(line.removeprefix(f'wrote {tmp_path}/out/') for line in lines[1:]) == PICTURES
  assert all(min(picture.shape[:2]) > 150 and picture.std() > 5 for picture in pictures.values())


def test_photographs_are_at_hand(capsys, tmp_path):
  code, lines, _, pictures = run(
    capsys, tmp_path, f'--checkpoint={DATA}/dialect2_map.npz', '--heads=max'
  )
  assert (code, list(pictures)) == (0, PICTURES)


def test_batches_do_not_matter(tmp_path, album):
  """The padded last batch, and fewer images than a batch, give what all at once give."""
  save(tmp_path / 'x.npz', 'ViT-Ti/4', image_size=8, head='gap', **TINY)
  args = tool._parser().parse_args(
    [f'--checkpoint={tmp_path}/x.npz', f'--out={tmp_path}', '--images', *album]
  )
  model, params, _ = tool.checkpoint_args.load(args)[0]
  look = lambda num_images, num_shown, batch_size: tool._look(
    model, params, tool._images(args, model, None), num_images, num_shown, 'mean', batch_size
  )
  images, views = look(3, 4, 2)
  at_once = look(128, 4, 8)
  np.testing.assert_array_equal(images, at_once[0])
  assert images.shape == (3, 8, 8, 3)
  for got, expected in zip(views, at_once[1]):
    np.testing.assert_allclose(got, expected, rtol=1e-5)
  fewer, views = look(2, 1, 8)
  np.testing.assert_array_equal(fewer, images[:1])
  assert [x.shape for x in views] == [(2, 2, 2), (1, 2, 2), (2, 1, 2, 2, 2)]


@pytest.mark.parametrize(
  'name, overrides, told, sentences',
  [
    ('ViT-Ti/4', dict(head='gap', attention='axial', **TINY), [], []),
    ('ViT-Ti/4', dict(registers=2, **TINY), [], []),
    ('R+ViT-Ti/4', dict(head='gap', **TINY), [], []),
    (
      'ViT-Ti/4',
      dict(pos_embedding='none', **TINY),
      ['--override=pos_embedding=none'],
      ["no position similarity: the model has no position embedding (pos_embedding='none')"],
    ),
    (
      'ViT-Ti/4',
      dict(pos_embedding='relative', **TINY),
      [],
      [
        'no position similarity: the model has embeddings of relative positions, not of each '
        'position'
      ],
    ),
    (
      'BiT-R50x1',
      {},
      [],
      [
        'no position similarity: a BiT ResNet has no position embedding',
        'no attention distance, rollout and maps: a BiT ResNet has no attention',
      ],
    ),
  ],
  ids=str,
)
def test_what_a_model_does_not_have_is_left_out(
  capsys, tmp_path, album, name, overrides, told, sentences
):
  path = save(tmp_path / 'x.npz', name, image_size=16, **overrides)
  code, lines, error, pictures = run(
    capsys, tmp_path, f'--checkpoint={path}', '--image_size=16', *told, '--images', album[0]
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
  assert (code, error) == (1, "error: no run has the metric 'eval/loss'; there are train/loss\n")
  step = tmp_path / 'a' / 'checkpoints' / '7'
  for part in ('state', 'meta'):  # as a run writes it
    (step / part).mkdir(parents=True)
  assert tool._own_run(str(tmp_path / 'a')) == tool._own_run(str(step)) == [tmp_path / 'a']
  assert tool._own_run(str(tmp_path / 'b')) == tool._own_run(f'{DATA}/vit_gap.npz') == []
  assert tool._name('x/a', ['x/a', 'y/b']) == 'a'
  assert tool._name('x/a', ['x/a', 'y/a']) == 'x/a'


@pytest.mark.parametrize(
  'args, words',
  [
    (['--layer=2'], '--layer=2 is not there: the model has attentions 0 to 1'),
    (['--num_images=0'], '--num_images must be at least 1, got 0'),
    (['--images', 'nowhere'], 'Cannot read nowhere: no such file or folder.'),
    (['--images', __file__], f'{__file__} cannot be read: not a JPEG, PNG or WebP file'),
  ],
)
def test_errors(capsys, tmp_path, args, words):
  code, _, error, _ = run(capsys, tmp_path, f'--checkpoint={DATA}/vit_gap.npz', *args)
  assert (code, error.startswith(f'error: {words}')) == (1, True), error
  assert error.count('\n') == 1
