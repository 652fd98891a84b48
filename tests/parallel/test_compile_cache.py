"""Programs are kept in the user's cache, or where the user says."""

import jax
import pytest

from vit_jax.parallel.compile_cache import use_compile_cache

DIRECTORY, SECONDS = 'jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs'


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
  """Start without a cache, as users do, and put the cache of the tests back at the end."""
  before = {name: getattr(jax.config, name) for name in (DIRECTORY, SECONDS)}
  jax.config.update(DIRECTORY, None)
  jax.config.update(SECONDS, 1.0)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_all_programs_are_kept_in_the_cache_of_the_user(tmp_path):
  use_compile_cache()
  assert getattr(jax.config, DIRECTORY) == str(tmp_path / 'vit_jax')
  assert getattr(jax.config, SECONDS) == 0


def test_a_given_directory_is_used(tmp_path):
  use_compile_cache(str(tmp_path / 'mine'))
  assert getattr(jax.config, DIRECTORY) == str(tmp_path / 'mine')


def test_a_bucket_gets_only_what_takes_long_to_compile():
  use_compile_cache('gs://bucket/cache')
  assert getattr(jax.config, DIRECTORY) == 'gs://bucket/cache'
  assert getattr(jax.config, SECONDS) == 1


def test_none_compiles_always():
  use_compile_cache('none')
  assert getattr(jax.config, DIRECTORY) is None


def test_settings_of_jax_are_left_alone():
  jax.config.update(DIRECTORY, '/somewhere')
  use_compile_cache()
  assert getattr(jax.config, DIRECTORY) == '/somewhere' and getattr(jax.config, SECONDS) == 1
