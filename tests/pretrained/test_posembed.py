"""Resize position embeddings and patch kernels.

data/posembed_resize.npz holds results of the published code. data/posembed_timm.npz holds results
of timm 1.0.31 with torch 2.15 for standard normal arrays: those of `resample_abs_pos_embed(x, new,
old, prefix, interpolation=mode)`, with the modes 'bilinear' and 'bicubic', which are antialiased by
default, and those of `resample_patch_embed(kernel, new, 'bilinear', antialias=False)`, transposed
to (p, p, C, D).
"""

import re

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from tests.helpers.paths import FILES
from vit_jax.errors import InputError
from vit_jax.pretrained.posembed import METHODS, resize_patch_embedding, resize_posembed

DATA = FILES
PAIRS = [(old, new) for old in range(1, 49) for new in range(1, 49) if old != new]
SHAPES = [((6, 4), (9, 7)), ((9, 7), (6, 4)), ((5, 3), (2, 8)), ((4, 4), (4, 9)), ((3, 1), (5, 2))]


def noise(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def resize_grid(grid, new, method='bilinear'):
  """Resize (h, w, D) to (h', w', D)."""
  rows = resize_posembed(grid.reshape(1, -1, grid.shape[-1]), new, grid.shape[:2], 0, method)
  return rows.reshape(*new, -1)


def references(file, kind):
  """Yield (the numbers in a name, input, reference) for every case in `file`."""
  with np.load(DATA / file) as arrays:
    for name in arrays.files:
      case, part = name.split(':')
      if part == kind:
        yield case, [int(n) for n in re.findall(r'\d+', case)], arrays[f'{case}:in'], arrays[name]


def test_values_of_the_published_code():
  cases = 0
  for case, (_, new), x, want in references('posembed_resize.npz', 'out'):
    got = resize_posembed(x, (new, new), num_prefix_tokens=int(case.endswith('tok')))
    assert got.shape == want.shape and got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    cases += 1
  assert cases == 4


@pytest.mark.parametrize('method', ['half_pixel', 'bicubic'])
def test_values_of_timm(method):
  cases = 0
  for _, (h, w, new_h, new_w, prefix), x, want in references('posembed_timm.npz', method):
    got = resize_posembed(x, (new_h, new_w), (h, w), prefix, method)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    cases += 1
  assert cases == 6


def test_all_square_pairs_against_scipy_where_it_is_right():
  """SciPy zeroes the last row and column for exactly 42 of the 2,256 pairs, and ours for none."""
  assert len(PAIRS) == 2256
  zeroed = []
  for old, new in PAIRS:
    grid = 1 + np.random.default_rng(old).random((old, old, 1))
    got = resize_grid(grid, (new, new))
    at = np.linspace(0, old - 1, new)
    truth = np.stack([np.interp(at, np.arange(old), row) for row in grid[..., 0]])
    truth = np.stack([np.interp(at, np.arange(old), column) for column in truth.T], axis=1)
    np.testing.assert_allclose(got[..., 0], truth, rtol=0, atol=1e-12)
    published = scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1)
    if np.allclose(got, published, rtol=0, atol=1e-12):
      continue
    zeroed.append((old, new))
    assert not published[-1].any() and not published[:, -1].any()
    np.testing.assert_allclose(got[:-1, :-1], published[:-1, :-1], rtol=0, atol=1e-12)
  assert len(zeroed) == 42 and {(28, 48), (28, 24), (28, 14), (24, 22), (16, 30)} <= set(zeroed)


@pytest.mark.parametrize('old, new', SHAPES)
def test_linear_functions_stay_linear(old, new):
  """If corners are aligned, coordinates that run from 0 to 1 between the corners are kept."""
  coordinates = lambda grid: np.stack(
    np.meshgrid(*(np.linspace(0, 1, n) for n in grid), indexing='ij'), axis=-1
  )
  got = resize_grid(coordinates(old), new)
  if 1 in old:  # one column holds one value
    got, want = got[..., 0], coordinates(new)[..., 0]
  else:
    want = coordinates(new)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-15)


@pytest.mark.parametrize('old, new', SHAPES)
def test_corners_stay_where_they_are(old, new):
  grid = noise(*old, 3)
  got = resize_grid(grid, new)
  for corner in [(0, 0), (0, -1), (-1, 0), (-1, -1)]:
    np.testing.assert_array_equal(got[corner], grid[corner])


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('old, new', SHAPES)
class TestEveryMethod:
  def test_weights_sum_to_one_and_each_old_row_counts(self, old, new, method):
    one_hot = np.eye(old[0] * old[1]).reshape(*old, -1)
    weights = resize_grid(one_hot, new, method)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=0, atol=1e-14)
    if method != 'bicubic':
      assert weights.min() >= 0
    if method != 'bilinear':  # aligned corners may skip a row if the grid shrinks
      assert np.abs(weights).max(axis=(0, 1)).min() > 0

  def test_flips_and_transposes_commute(self, old, new, method):
    grid = noise(*old, 2)
    got = resize_grid(grid, new, method)
    for turn in (lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: x.swapaxes(0, 1)):
      turned = turn(grid)
      same = resize_grid(turned, turn(got).shape[:2], method)
      np.testing.assert_allclose(same, turn(got), rtol=0, atol=1e-14)

  def test_channels_do_not_mix_and_prefix_rows_are_kept(self, old, new, method):
    grid, prefix = noise(*old, 3).astype(np.float32), noise(1, 2, 3, seed=1).astype(np.float32)
    alone = [resize_grid(grid[..., i : i + 1], new, method) for i in range(3)]
    both = np.concatenate([prefix, grid.reshape(1, -1, 3)], axis=1)
    got = resize_posembed(both, new, old, 2, method)
    np.testing.assert_array_equal(got[:, :2], prefix)
    np.testing.assert_allclose(
      got[:, 2:].reshape(*new, 3), np.concatenate(alone, axis=-1), rtol=0, atol=1e-6
    )


def test_round_trips():
  """Every old point is also a new point if (new - 1) is a multiple of (old - 1)."""
  grid = noise(4, 7, 2)
  larger = resize_grid(grid, (10, 19))
  np.testing.assert_allclose(larger[::3, ::3], grid, rtol=0, atol=1e-15)
  np.testing.assert_allclose(resize_grid(larger, (4, 7)), grid, rtol=0, atol=1e-15)


def test_one_position():
  grid = noise(3, 4, 2)
  np.testing.assert_array_equal(resize_grid(grid, (1, 1))[0, 0], grid[0, 0])
  np.testing.assert_array_equal(resize_grid(grid[:1, :1], (3, 2)), np.tile(grid[:1, :1], (3, 2, 1)))
  np.testing.assert_allclose(
    resize_grid(grid[:2, :2], (1, 1), 'half_pixel')[0, 0],
    grid[:2, :2].mean(axis=(0, 1)),
    atol=1e-15,
  )


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('dtype', [np.float64, np.float32, np.float16, jnp.bfloat16])
def test_dtypes_are_kept_and_equal_grids_are_the_identity(dtype, method):
  x = noise(1, 1 + 12, 5).astype(dtype)
  same = resize_posembed(x, (3, 4), (3, 4), method=method)
  assert same.dtype == x.dtype
  np.testing.assert_array_equal(same, x)
  larger = resize_posembed(jnp.asarray(x), (6, 4), (3, 4), method=method)
  assert isinstance(larger, np.ndarray) and larger.shape == (1, 25, 5)
  exact = resize_posembed(x.astype(np.float64), (6, 4), (3, 4), method=method)
  np.testing.assert_allclose(
    larger.astype(np.float64), exact, rtol=float(jnp.finfo(dtype).eps), atol=1e-6
  )


@pytest.mark.parametrize(
  'shape, arguments, words',
  [
    (
      (1, 15, 2),
      dict(new_grid=(5, 5)),
      '14 patch positions do not make a square grid. Give old_grid',
    ),
    (
      (1, 17, 2),
      dict(new_grid=(5, 5), old_grid=(4, 5)),
      'old_grid 4x5 has 20 patches, but the position embedding has 16 after 1 prefix tokens.',
    ),
    ((1, 16, 2), dict(new_grid=(5, 5)), 'another num_prefix_tokens than 1'),
    (
      (1, 17, 2),
      dict(new_grid=(5, 0)),
      r'new_grid must be two positive whole numbers, but got \(5, 0',
    ),
    ((1, 17, 2), dict(new_grid=5), 'new_grid must be two positive whole numbers, but got 5.'),
    ((1, 17, 2), dict(new_grid=(5, 5, 5)), 'new_grid must be two positive'),
    ((1, 17, 2), dict(new_grid=(5.5, 5)), 'new_grid must be two positive'),
    ((1, 17, 2), dict(new_grid=(5, 5), old_grid=(-4, -4)), 'old_grid must be two positive'),
    (
      (1, 17, 2),
      dict(new_grid=(5, 5), method='lanczos'),
      "Unknown resize method 'lanczos'. Available: bilinear, half_pixel, bicubic.",
    ),
    ((17, 2), dict(new_grid=(5, 5)), r'shape \(1, N, D\), but got \(17, 2\).'),
    ((2, 17, 2), dict(new_grid=(5, 5)), r'shape \(1, N, D\), but got \(2, 17, 2\).'),
    ((1, 1, 2), dict(new_grid=(5, 5)), 'with 1 rows has no grid after 1 prefix tokens.'),
    ((1, 9, 2), dict(new_grid=(5, 5), num_prefix_tokens=-1), 'no grid after -1 prefix'),
  ],
)
def test_errors(shape, arguments, words):
  with pytest.raises(InputError, match=words):
    resize_posembed(np.zeros(shape), **arguments)


def enlarge(x, size):
  """Resize (h, w, C) to (*size, C), bilinear between pixel centers without antialiasing."""
  for axis, new in enumerate(size):
    old = x.shape[axis]
    at = (np.arange(new) + 0.5) * old / new - 0.5
    x = np.apply_along_axis(
      lambda line, at=at, old=old: np.interp(at, np.arange(old), line), axis, x
    )
  return x


@pytest.mark.parametrize(
  'old, new',
  [((4, 4), (8, 8)), ((4, 4), (5, 5)), ((4, 6), (4, 9)), ((3, 5), (10, 6)), ((8, 8), (16, 16))],
)
def test_tokens_do_not_change_when_patches_are_enlarged(old, new):
  """FlexiViT section 3.4: <x, w> == <B x, w'> for every patch x."""
  kernel, patches = noise(*old, 3, 4), noise(20, *old, 3, seed=1)
  larger = np.stack([enlarge(x, new) for x in patches])
  np.testing.assert_allclose(
    np.einsum('nhwc,hwcd->nd', larger, resize_patch_embedding(kernel, new)),
    np.einsum('nhwc,hwcd->nd', patches, kernel),
    rtol=0,
    atol=1e-12,
  )


@pytest.mark.parametrize('old, new', [((8, 8), (4, 4)), ((8, 8), (5, 3)), ((4, 6), (7, 3))])
def test_no_other_kernel_is_nearer_for_smaller_patches(old, new):
  """The result minimizes the mean of (<x, w> - <B x, v>)^2 over white noise x, |w - B^T v|^2."""
  kernel = noise(*old, 1, 1)
  basis = np.eye(old[0] * old[1]).reshape(*old, -1)
  b_t = enlarge(basis, new).reshape(-1, old[0] * old[1]).T
  best = np.linalg.lstsq(b_t, kernel.ravel())[0]
  np.testing.assert_allclose(resize_patch_embedding(kernel, new).ravel(), best, rtol=0, atol=1e-12)


def test_patch_kernels_of_timm():
  cases = 0
  for _, (_, _, *new), x, want in references('posembed_timm.npz', 'out'):
    np.testing.assert_allclose(resize_patch_embedding(x, new), want, rtol=0, atol=1e-5)
    cases += 1
  assert cases == 3


def test_patch_kernels_of_equal_size_and_errors():
  kernel = noise(4, 4, 3, 2).astype(np.float32)
  np.testing.assert_array_equal(resize_patch_embedding(kernel, 4), kernel)
  np.testing.assert_array_equal(resize_patch_embedding(kernel, (4, 4)), kernel)
  half = resize_patch_embedding(jnp.asarray(kernel, jnp.bfloat16), np.int64(8))
  assert half.dtype == jnp.bfloat16 and half.shape == (8, 8, 3, 2)
  for size in (0, (4, -1), (4,), 2.5):
    with pytest.raises(InputError, match='new_patch_size must be two positive whole numbers'):
      resize_patch_embedding(kernel, size)
  with pytest.raises(InputError, match=r'shape \(p, p, C, D\), but got \(48, 2\).'):
    resize_patch_embedding(kernel.reshape(48, 2), 8)
