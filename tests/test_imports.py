"""A folder imports only from the folders above it, and importing does no work."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

PACKAGE = ROOT / 'vit_jax'
# A file imports from its own folder and from those before it.
ORDER = [
  'errors',
  'files',
  'models',
  'data',
  'parallel',
  'config',
  'pretrained',
  'evaluation',
  'inference',
  'figures',
  'dedup',
  'training',
  'transfer',
  'cost',
  'report',
  'tools',
  'main',
]
HOLD_A_CONFIG = {'config', 'training', 'transfer', 'cost', 'tools', 'main'}
FILES = sorted(PACKAGE.rglob('*.py'))


def module_name(path: pathlib.Path) -> str:
  return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


MODULES = {module_name(path) for path in FILES}
MODULE_FILES = [path for path in FILES if path.name != '__init__.py']


def folder(name: str) -> str:
  """Return the folder of a module: 'vit_jax.data.decode' -> 'data'."""
  return name.split('.')[1]


def imported(node: ast.AST) -> list[str]:
  """Return the modules that an import statement names."""
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  if isinstance(node, ast.ImportFrom) and node.module:
    return [
      full if (full := f'{node.module}.{alias.name}') in MODULES else node.module
      for alias in node.names
    ]
  return []


def imports(path: pathlib.Path) -> set[str]:
  return {name for node in ast.walk(ast.parse(path.read_text())) for name in imported(node)}


def test_the_top_of_the_package():
  names = {path.stem for path in PACKAGE.glob('*.py')} | {
    path.parent.name for path in PACKAGE.glob('*/__init__.py')
  }
  assert names == {'__init__', *ORDER}
  assert {path.name for path in PACKAGE.glob('*.py')} == {
    '__init__.py',
    'main.py',
    'errors.py',
    'files.py',
  }


@pytest.mark.parametrize('path', MODULE_FILES, ids=module_name)
def test_imports_point_one_way(path):
  here = folder(module_name(path))
  for name in imports(path):
    if name.startswith('vit_jax.'):
      there = folder(name)
      assert ORDER.index(there) <= ORDER.index(here), f'{name} is below'
      assert there != 'tools', 'nobody imports a tool'
    assert name.split('.')[0] != 'ml_collections' or here in HOLD_A_CONFIG
    assert name.split('.')[0] != 'tensorflow'


@pytest.mark.parametrize('path', MODULE_FILES, ids=module_name)
def test_functions_import_only_what_others_wrote(path):
  for function in ast.walk(ast.parse(path.read_text())):
    if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
      for node in ast.walk(function):
        assert not [name for name in imported(node) if name.split('.')[0] == 'vit_jax']


def test_no_circle_of_files():
  graph = {
    module_name(path): {name for name in imports(path) if name in MODULES} for path in MODULE_FILES
  }
  list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_two_files_share_a_name_only_as_command_and_library():
  by_name = {}
  for path in MODULE_FILES:
    by_name.setdefault(path.stem, []).append(folder(module_name(path)))
  for name, folders in by_name.items():
    commands = [f for f in folders if f in ('tools', 'transfer')]
    assert len(folders) - len(commands) <= 1 and len(commands) <= 1, f'{name}: {folders}'


def test_importing_starts_nothing():
  """Importing every module touches no device and loads no TensorFlow."""
  names = sorted(MODULES)
  code = f"""
import importlib, sys
for name in {names}: importlib.import_module(name)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert 'tensorflow' not in sys.modules
"""
  subprocess.run([sys.executable, '-c', code], check=True)
