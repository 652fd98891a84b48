import re
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.paths import FILES
from tests.helpers.tiny_models import assert_others_equal
from vit_jax import create_model, load_params
from vit_jax.config.fields import default_config
from vit_jax.pretrained.formats import read_arrays, read_checkpoint
from vit_jax.pretrained.posembed import resize_patch_embedding, resize_posembed
from vit_jax.tools import resize
from vit_jax.training import loop as train_lib

DATA = FILES
POSITIONS = 'Transformer/posembed_input/pos_embedding'
TINY = dict(hidden_dim=32, mlp_dim=64, num_heads=2, num_layers=2)
TIMM = TINY | dict(mlp_dim=128, activation='gelu')
HF = TINY | dict(num_heads=4, num_layers=3, activation='gelu', norm_eps=1e-12)


def run(*arguments):
  return resize.main([str(a) for a in arguments])


def load(path, image_size, patch=8, num_classes=10, **overrides):
  """Return (model, parameters) of a checkpoint that must fit without changes."""
  model = create_model(
    f'ViT-Ti/{patch}', num_classes=num_classes, image_size=image_size, **overrides
  )
  return model, load_params(path, model)


def assert_works(model, params):
  images = jax.random.uniform(jax.random.key(0), (2, *model.image_size, 3), minval=-1)
  logits = jax.jit(model.apply)({'params': params}, images)
  assert logits.shape == (2, 10) and np.isfinite(logits).all()
  assert np.abs(logits[0] - logits[1]).max() > 1e-4


@pytest.mark.parametrize(
  'source, overrides',
  [
    ('vit_token.npz', TINY),
    ('timm_tiny', TIMM),
    ('timm_tiny/model.safetensors', TIMM),
    ('hf_tiny', HF),
    ('hf_tiny/model.safetensors', HF),
  ],
)
@pytest.mark.parametrize('out', ['out.npz', 'out.safetensors', 'new/out'])
def test_every_kind_of_file(source, overrides, out, tmp_path, capsys, caplog):
  out = tmp_path / out
  if source.endswith('npz') and out.suffix == '.safetensors':
    assert run(DATA / source, out, '--image_size=64,48') == 1
    error = capsys.readouterr().err
    assert f'Cannot choose the names in {out}, because {DATA / source} has neither' in error
    assert not out.exists()
    return
  assert run(DATA / source, out, '--image_size=64,48', '--method=bicubic') == 0
  printed = capsys.readouterr().out.splitlines()
  assert printed[0] == f'{POSITIONS}: (1, 17, 32) -> (1, 49, 32)' and len(printed) == 2
  lost = {k: v for k, v in overrides.items() if k in ('activation', 'norm_eps')}
  flags = [f'--override={k}={v}' for k, v in lost.items()] + ['--image_size=64,48']
  assert printed[1] == (
    f'Wrote {out}. Predict with it: python -m vit_jax.tools.predict --checkpoint={out} '
    + ' '.join((flags if out.suffix == '.npz' else []) + ['IMAGE'])
  )
  old, new = read_arrays(DATA / source), read_arrays(out, num_heads=overrides['num_heads'])
  assert_others_equal(old, new, POSITIONS)
  want = resize_posembed(old[POSITIONS], (8, 6), method='bicubic')
  np.testing.assert_array_equal(new[POSITIONS], want)
  model, params = load(out, (64, 48), **overrides)
  np.testing.assert_array_equal(params['Transformer']['posembed_input']['pos_embedding'], want)
  assert_works(model, params)
  unusual = [
    f'{k}={v!r}'
    for k, v in overrides.items()
    if k == 'norm_eps' or (k, v) == ('activation', 'gelu')
  ]
  warning = (
    f'npz does not keep {", ".join(unusual)} of {DATA / source}. Give it again when you use the '
    'file, or write an Orbax directory, which keeps everything.'
  )
  # Loading it resizes nothing more.
  assert caplog.messages == [warning] * bool(unusual and out.suffix == '.npz')
  if out.suffix != '.npz':
    assert read_checkpoint(out).metadata.image_size == (64, 48)


def test_timm_reads_what_timm_wrote_and_back(tmp_path):
  """4 -> 7 -> 4 is the identity, because the new points include the old ones."""
  larger, back = tmp_path / 'larger.safetensors', tmp_path / 'back.safetensors'
  assert run(DATA / 'timm_tiny', larger, '--image_size=56') == 0
  assert run(larger, back, '--image_size=32') == 0
  old, new = read_arrays(DATA / 'timm_tiny'), read_arrays(back)
  assert_others_equal(old, new, POSITIONS)
  np.testing.assert_allclose(old[POSITIONS], new[POSITIONS], rtol=0, atol=1e-7)


def config(data_dir, **changes):
  c = default_config()
  c.update(
    dict(
      model='ViT-Ti/8',
      hidden_dim=32,
      mlp_dim=64,
      num_heads=2,
      num_layers=1,
      image_size=16,
      dtype='float32',
      dataset='digits',
      data_dir=data_dir,
      preset='bit',
      batch_size=8,
      total_steps=1,
      warmup_steps=1,
      eval_split='none',
      num_threads=2,
    )
  )
  c.update(changes)
  return c


def test_a_run_and_a_run_from_it(tmp_path, digits_dir, capsys, monkeypatch):
  """The workdir, checkpoints/ and a step give the same file, from which a run starts."""
  workdir, out = tmp_path / 'run', tmp_path / 'resized'
  train_lib.train(config(digits_dir), workdir)
  old = read_arrays(workdir)
  monkeypatch.chdir(tmp_path)  # relative paths, as people give them
  results = []
  for i, source in enumerate(['run', 'run/checkpoints', 'run/checkpoints/1']):
    assert run(source, f'resized{i or ""}', '--image_size=32', '--patch_size=16') == 0
    results.append(read_arrays(f'resized{i or ""}'))
    assert capsys.readouterr().out.splitlines() == [
      'embedding/kernel: (8, 8, 3, 32) -> (16, 16, 3, 32)',
      f'Wrote resized{i or ""}. Train from it with: python -m vit_jax.main '
      f'--config=FILE --workdir=DIR --config.init_from=resized{i or ""} '
      '--config.image_size=32 --config.model=ViT-Ti/16 --config.hidden_dim=32 '
      '--config.mlp_dim=64 --config.num_heads=2 --config.num_layers=1',
    ]
    assert_others_equal(results[0], results[-1])
  assert_others_equal(old, results[0], 'embedding/kernel')
  np.testing.assert_array_equal(
    results[0]['embedding/kernel'], resize_patch_embedding(old['embedding/kernel'], 16)
  )
  assert read_checkpoint(out).metadata.model == 'ViT-Ti/16'
  before, after = read_checkpoint(workdir).metadata, read_checkpoint(out).metadata
  assert before.class_names == after.class_names == [str(i) for i in range(10)]
  c = config(
    digits_dir, init_from='resized', image_size=32, model='ViT-Ti/16', total_steps=1, lr=1e-6
  )
  train_lib.train(c, tmp_path / 'next')
  new = read_arrays(tmp_path / 'next')
  for name, array in results[0].items():
    np.testing.assert_allclose(new[name], array, rtol=0, atol=1e-5, err_msg=name)


def enlarge(x, axis):
  """Return images of twice the size, bilinear between pixel centers."""
  x = np.moveaxis(x, axis, -1)
  edged = np.concatenate([x[..., :1], x, x[..., -1:]], -1)
  pairs = [0.75 * x + 0.25 * edged[..., :-2], 0.75 * x + 0.25 * edged[..., 2:]]
  return np.moveaxis(np.stack(pairs, -1).reshape(*x.shape[:-1], -1), -1, axis)


def test_larger_patches_of_larger_images_give_the_same_tokens(tmp_path):
  """FlexiViT tokens are equal if each patch is enlarged on its own, and close if the image is."""
  assert (
    run(DATA / 'vit_token.npz', tmp_path / 'p16.npz', '--image_size=64', '--patch_size=16') == 0
  )
  (small, params8), (large, params16) = (
    load(DATA / 'vit_token.npz', 32, **TINY),
    load(tmp_path / 'p16.npz', 64, 16, **TINY),
  )
  images = np.load(DATA / 'vit_token.io.npz')['image']
  want = small.apply({'params': params8}, images)
  patches = images.reshape(2, 4, 8, 4, 8, 3)
  patches = enlarge(enlarge(patches, 2), 4).reshape(2, 64, 64, 3).astype(np.float32)
  got = large.apply({'params': params16}, patches)
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)

  y, x = np.mgrid[:32, :32] / 32
  smooth = np.stack([np.sin(3 * x + 2 * y), np.cos(4 * y), x * y], -1).astype(np.float32)
  whole = cv2.resize(smooth, (64, 64), interpolation=cv2.INTER_LINEAR)
  tokens = lambda image, params, p: jnp.einsum(
    'hpwqc,pqcd->hwd', image.reshape(4, p, 4, p, 3), params['embedding']['kernel']
  )
  a, b = tokens(smooth, params8, 8), tokens(whole, params16, 16)
  assert 0 < np.abs(a - b).max() < 0.02 * np.abs(a).max()
  a, b = (
    model.apply({'params': params}, image[None])
    for model, params, image in [(small, params8, smooth), (large, params16, whole)]
  )
  np.testing.assert_allclose(a, b, rtol=0, atol=0.02 * np.abs(a).max())


def test_smaller_patches_make_a_finer_grid(tmp_path, capsys):
  assert run(DATA / 'vit_gap.npz', tmp_path / 'p4.npz', '--image_size=32', '--patch_size=4') == 0
  assert capsys.readouterr().out.splitlines()[:2] == [
    f'{POSITIONS}: (1, 16, 32) -> (1, 64, 32)',
    'embedding/kernel: (8, 8, 3, 32) -> (4, 4, 3, 32)',
  ]
  assert_works(*load(tmp_path / 'p4.npz', 32, 4, head='gap', **TINY))


def test_a_file_that_does_not_tell_its_heads_and_activation(tmp_path, capsys):
  source, out = tmp_path / 'alone.safetensors', tmp_path / 'out.npz'
  shutil.copy(DATA / 'timm_tiny' / 'model.safetensors', source)
  assert run(source, out, '--image_size=64') == 1
  assert 'error: ' in (error := capsys.readouterr().err) and 'Give num_heads' in error
  assert run(source, out, '--image_size=64', '--num_heads=2') == 0
  assert_others_equal(read_arrays(DATA / 'timm_tiny'), read_arrays(out), POSITIONS)
  capsys.readouterr()
  assert run(source, tmp_path / 'out.safetensors', '--image_size=64', '--num_heads=2') == 1
  assert capsys.readouterr().err == (
    f'error: {source} has no config.json that records its activation. Put a config.json beside '
    'it, or write npz.\n'
  )


@pytest.mark.parametrize(
  'source, flags, words',
  [
    (
      'vit_token.npz',
      ['--image_size=36'],
      'image_size 36x36 is not a multiple of the patch size 8x8. Try 32x32.',
    ),
    (
      'vit_token.npz',
      ['--image_size=48', '--patch_size=32'],
      'image_size 48x48 is not a multiple of the patch size 32x32. Try 64x64.',
    ),
    (
      'vit_token.npz',
      ['--image_size=32'],
      'Nothing to resize, because the model already has 4x4 patches of 8x8 pixels.',
    ),
    (
      'vit_token.npz',
      ['--image_size=64', '--old_image_size=32,64'],
      'old_image_size 32x64 has 4x8 patches, but the position embedding has 16. Give',
    ),
    (
      'vit_token.npz',
      ['--image_size=64', '--old_image_size=30'],
      'old_image_size 30x30 is not a multiple of the patch size 8x8',
    ),
    ('vit_token.npz', ['--image_size=0'], 'one or two positive numbers of pixels, but got 0.'),
    ('vit_token.npz', ['--image_size=64', '--patch_size=-8'], 'one or two positive numbers'),
    ('hybrid_1_1.npz', ['--image_size=100'], 'not a multiple of the patch size 8x8. Try 96x96.'),
    ('hybrid_stem.npz', ['--image_size=80'], 'not a multiple of the patch size 32x32'),
    (
      'hybrid_stem.npz',
      ['--image_size=96', '--patch_size=4'],
      'The patch size of a hybrid is fixed, because its patches are positions of its ResNet.',
    ),
    (
      'bit_v2.npz',
      ['--image_size=96'],
      'Nothing to resize, because a BiT ResNet takes images of any size.',
    ),
    (
      'posembed_timm.npz',
      ['--image_size=96'],
      'It is not a Vision Transformer, because it has no embedding/kernel.',
    ),
    ('none.npz', ['--image_size=96'], 'no such file'),
  ],
)
def test_errors_name_the_file_and_write_nothing(source, flags, words, tmp_path, capsys):
  assert run(DATA / source, tmp_path / 'out', *flags) == 1
  shown = capsys.readouterr()
  assert (
    re.match(f'error: Cannot (resize|read) {DATA / source}: ', shown.err) and words in shown.err
  )
  assert shown.err.count('\n') == 1 and not shown.out
  assert not list(tmp_path.iterdir())


def test_what_is_there_stays(tmp_path, capsys):
  out = tmp_path / 'out.npz'
  out.write_text('mine')
  assert run(DATA / 'vit_token.npz', out, '--image_size=64') == 1
  assert capsys.readouterr().err == (
    f'error: {out} already exists. Choose another path, or replace it with --force.\n'
  )
  assert out.read_text() == 'mine'
  assert run(DATA / 'vit_token.npz', out, '--image_size=64', '--force') == 0
  assert read_arrays(out)[POSITIONS].shape == (1, 65, 32)


def test_a_recorded_size_need_not_be_given(tmp_path, capsys):
  """An Orbax directory records the image size. An npz file does not."""
  for name in ('a.npz', 'a'):
    assert run(DATA / 'hybrid_1_1.npz', tmp_path / name, '--image_size=64,48') == 0
  capsys.readouterr()
  assert run(tmp_path / 'a.npz', tmp_path / 'b.npz', '--image_size=96,128') == 1
  assert (
    f'error: Cannot resize {tmp_path}/a.npz: Its 48 patches do not make a square grid. Give '
    'old_image_size, the HEIGHT,WIDTH in pixels of the images that it is for.\n'
  ) == capsys.readouterr().err
  assert run(tmp_path / 'a', tmp_path / 'b', '--image_size=96,128') == 0
  assert (
    run(tmp_path / 'a.npz', tmp_path / 'b.npz', '--image_size=96,128', '--old_image_size=64,48')
    == 0
  )
  a, b = read_arrays(tmp_path / 'b'), read_arrays(tmp_path / 'b.npz')
  assert_others_equal(a, b)
  assert a[POSITIONS].shape == (1, 1 + 12 * 16, 32)


def test_sizes_on_the_command_line_are_one_or_two_numbers(tmp_path, capsys):
  for size in ('big', '1,2,3', '32x32'):
    with pytest.raises(SystemExit, match='2'):
      run('a.npz', 'b.npz', f'--image_size={size}')
    assert f"argument --image_size: invalid image_size value: '{size}'" in capsys.readouterr().err
