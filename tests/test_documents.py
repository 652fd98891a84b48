"""README and RESULTS: what they name is there, and pictures are small."""

import importlib.util
import re

import pytest

from tests.helpers.paths import ROOT

DOCUMENTS = ['README.md', 'RESULTS.md']
PICTURES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'pictures').iterdir())


def shown(text):
  """Paths of the pictures in a document."""
  return re.findall(r'!\[[^]]*\]\(([^)]+)\)|<img src="([^"]+)"', text)


@pytest.mark.parametrize('document', DOCUMENTS)
def test_what_is_named_exists(document):
  text = (ROOT / document).read_text()
  files = re.findall(r'\]\((?!https?:|#)([^)#]+)\)|<img src="([^"]+)"|\b(configs/\w+\.py)', text)
  modules = set(re.findall(r'python -m ((?:vit_jax|benchmarks)[\w.]*)', text))
  assert len(files) > 3 and len(modules) > 5
  assert not [name for names in files for name in names if name and not (ROOT / name).exists()]
  assert not [m for m in modules if not importlib.util.find_spec(m)]


def test_commands_of_the_readme_have_their_configs_and_flags():
  from vit_jax.config.fields import default_config

  fields = re.findall(r'--config\.(\w+)', (ROOT / 'README.md').read_text())
  assert len(fields) > 20
  assert not set(fields) - set(default_config())


@pytest.mark.parametrize('path', PICTURES)
def test_pictures_are_small_and_shown(path):
  assert (ROOT / path).stat().st_size < 300_000
  texts = [(ROOT / document).read_text() for document in DOCUMENTS]
  places = [text for text in texts if path in sum(shown(text), ())]
  assert places, f'no document shows {path}'
  assert all(re.search(r'^ {4}.*--out=pictures', text, re.M) for text in places)
