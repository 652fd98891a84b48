"""Test what files import: only folders above, no private names of libraries, and no work."""

import ast
import graphlib
import os
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
assert 'tensorflow' not in sys.modules
"""
  no_device = os.environ | {'JAX_PLATFORMS': 'none'}  # JAX refuses to use any
  subprocess.run([sys.executable, '-c', code], check=True, env=no_device)


def test_every_benchmark_can_be_imported():
  names = [f'benchmarks.{path.stem}' for path in (ROOT / 'benchmarks').glob('*.py')]
  assert 'benchmarks.step' in names
  code = f'import importlib\nfor name in {names}: importlib.import_module(name)'
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


# Private names of libraries that we may use, by file.
ALLOWED = {
  'vit_jax/parallel/coordination.py': {'jax._src.distributed'},
  # fsspec documents these: the coroutines behind info(), cat_file() and the like.
  'vit_jax/files.py': {'_info'},
  'vit_jax/data/remote.py': {'_cat_file', '_find', '_info', '_ls', '_pipe_file'},
}
PUBLIC = {'_asdict', '_exit', '_fields', '_make', '_replace'}  # of named tuples and os, documented
PROGRAMS = [
  *FILES,
  *(path for folder in ('benchmarks', 'configs', 'colab') for path in (ROOT / folder).glob('*.py')),
]


def private(name: str) -> bool:
  return any(part[:1] == '_' and part[:2] != '__' for part in name.split('.'))


def private_names(code: str) -> set[str]:
  """Return the private names that a file uses and neither defines nor imports from vit_jax."""
  used, own = set(), PUBLIC.copy()
  for node in ast.walk(ast.parse(code)):
    match node:
      case ast.Import(names=names):
        used |= {alias.name for alias in names}
      case ast.ImportFrom(module=str(module), names=names):
        used |= {module} if private(module) else {f'{module}.{alias.name}' for alias in names}
      case ast.Call(
        func=ast.Name(id='getattr' | 'hasattr'), args=[_, ast.Constant(value=str(name)), *_]
      ):
        used.add(name)
      case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name):
        own.add(name)
      case ast.Attribute(value=ast.Name(id='self' | 'cls'), attr=name):
        own.add(name)
      case ast.Attribute(attr=name) if not ast.unparse(node).startswith('vit_jax.'):
        used.add(name)
  return {name for name in used - own if private(name) and not name.startswith('vit_jax.')}


def test_private_names_of_libraries_stay_in_their_place():
  found = {str(path.relative_to(ROOT)): private_names(path.read_text()) for path in PROGRAMS}
  assert {file: names for file, names in found.items() if names} == ALLOWED


@pytest.mark.parametrize(
  'code, name',
  [
    ('import jax._src.core as c', 'jax._src.core'),
    ('from jax._src import mesh', 'jax._src'),
    ('from jax import _src', 'jax._src'),
    ('import jax\njax._src.mesh', '_src'),
    ('x = jax.jit(f)._cache_size()', '_cache_size'),
    ("getattr(mesh, '_any_axis_manual', None)", '_any_axis_manual'),
  ],
)
def test_the_search_for_private_names_finds(code, name):
  assert private_names(code) == {name}
