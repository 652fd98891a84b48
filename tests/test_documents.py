"""README and RESULTS name files, commands and flags that exist, and show small pictures."""

import importlib.util
import re

import pytest

from tests.helpers.paths import ROOT
from tests.test_imports import ORDER
from vit_jax.config.fields import default_config

DOCUMENTS = ['README.md', 'RESULTS.md']
PICTURES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'pictures').iterdir())


def shown(text):
  """Return the paths of the pictures in a document."""
  return re.findall(r'!\[[^]]*\]\(([^)]+)\)|<img src="([^"]+)"', text)


@pytest.mark.parametrize('document', DOCUMENTS)
def test_named_files_and_commands_exist(document):
  text = (ROOT / document).read_text()
  files = re.findall(r'\]\((?!https?:|#)([^)#]+)\)|<img src="([^"]+)"|\b(configs/\w+\.py)', text)
  modules = set(re.findall(r'python -m ((?:vit_jax|benchmarks)[\w.]*)', text))
  assert len(files) > 3 and len(modules) > 5
  assert not [name for names in files for name in names if name and not (ROOT / name).exists()]
  assert not [m for m in modules if not importlib.util.find_spec(m)]


def test_commands_of_the_readme_have_their_configs_and_flags():
  fields = re.findall(r'--config\.(\w+)', (ROOT / 'README.md').read_text())
  assert len(fields) > 20
  assert not set(fields) - set(default_config())


def test_the_map_of_the_code_is_the_order_of_imports():
  text = (ROOT / 'README.md').read_text()
  section = text.partition('## Find your way in the code\n')[2].partition('\n## ')[0]
  names = re.findall(r'^ {4}(\w+)(?:/|\.py) ', section, re.M)
  assert names == ORDER
  files = re.findall(r'`(\w+/\w*(?:\.py)?)`', section)
  assert len(files) > 8
  assert not [
    name for name in files if not ((ROOT / 'vit_jax' / name).exists() or (ROOT / name).exists())
  ]


@pytest.mark.parametrize('path', PICTURES)
def test_pictures_are_small_and_shown(path):
  assert (ROOT / path).stat().st_size < 300_000
  texts = [(ROOT / document).read_text() for document in DOCUMENTS]
  places = [text for text in texts if path in sum(shown(text), ())]
  assert places, f'no document shows {path}'
  assert all(re.search(r'^ {4}.*--out=pictures', text, re.M) for text in places)


def test_the_page_about_data_runs(tmp_path, monkeypatch, capsys):
  text = (ROOT / 'docs' / 'data.md').read_text()
  blocks = re.findall(r'^```python\n(.*?)^```', text, re.M | re.S)
  reader = blocks[0][blocks[0].index('class ') :]
  assert len([line for line in reader.splitlines() if line.strip()]) <= 20
  monkeypatch.chdir(tmp_path)
  names = {'__name__': 'page'}
  for block in blocks:
    exec(compile(block, 'docs/data.md', 'exec'), names)
  assert capsys.readouterr().out.startswith('(4, 8, 8, 3) [')
  source = names['source']
  assert len(source) == 16 and source.class_names == ['cat', 'dog']
  assert source.label(0) == source[0]['label'] and source.location(0).endswith('.png')
  assert len(names['JsonLinesSource']('list.jsonl', 'train[80%:]')) == 4
  links = re.findall(r'\]\(([^)]+)\)', text)
  assert links and all((ROOT / 'docs' / link).exists() for link in links)
