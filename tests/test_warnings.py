"""Test that a test fails where our code calls what is deprecated (pyproject.toml)."""

import warnings

import pytest


@pytest.mark.parametrize('category', [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_a_deprecation_is_an_error_in_our_code(category):
  for module in ('vit_jax.models.layers', 'tests.test_x', 'benchmarks.step'):
    with pytest.raises(category, match='^old$'):
      warnings.warn_explicit('old', category, f'{module}.py', 1, module)
  with warnings.catch_warnings(record=True) as listed:
    warnings.warn_explicit('old', category, 'linen.py', 1, 'flax.linen')
  assert len(listed) == 1
