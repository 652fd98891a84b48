"""Holds which part of the package may know of which, and that importing does no work."""

import ast
import subprocess
import sys

import pytest
from tests.helpers.paths import ROOT

PACKAGE = ROOT / 'vit_jax'
# What a module may import of the package, besides errors; the first matching prefix counts.
ALLOWED = {
    'models': ('models',), 'data': ('data',), 'pretrained': ('pretrained', 'models', 'fingerprint'),
    'optim': (), 'step': ('optim', 'models'), 'parallel': (), 'checkpoint': ('fingerprint',),
    'fingerprint': (), 'metrics': (), 'record': (), 'hosts': (), 'evaluate': (), 'devices': (),
    'flops': ('models',), 'monitor': ('metrics', 'record'), 'watchdog': ('hosts',),
    'config': (), 'config_args': (), 'recipes': ('config', 'data', 'models'),
    'inputs': ('config', 'data', 'dedup', 'metrics'), 'measures': (),
    'dedup': ('dedup', 'data', 'models'),
    'figures': ('figures', 'models', 'pretrained', 'hosts', 'measures', 'parallel', 'data'),
    'report': ('report', 'figures', 'measures', 'parallel', 'data', 'config', 'pretrained'),
    'evaluations': ('evaluate', 'hosts', 'inputs', 'metrics', 'monitor', 'parallel', 'step',
                    'transfer', 'watchdog'),
    'train': ('models', 'pretrained', 'optim', 'step', 'parallel', 'checkpoint', 'metrics',
              'config', 'hosts', 'record', 'monitor', 'watchdog', 'devices', 'flops', 'inputs',
              'evaluations', 'pretext', 'data', 'figures'), 'pretext': ('models', 'pretext'),
    'cost': ('devices', 'step'),
    'program': ('hosts', 'config_args'), 'main': ('train', 'program'),
    'aot': ('aot', 'devices', 'parallel'),
    'inference': ('data', 'models', 'pretrained'), 'export': ('models', 'pretrained'),
    'tools': ('data', 'models', 'pretrained', 'inference', 'export', 'config', 'config_args',
              'train', 'tools', 'aot', 'devices', 'flops', 'parallel', 'measures', 'step',
              'dedup', 'metrics', 'figures', 'cost', 'recipes', 'report'),
    'transfer': ('config', 'data', 'hosts', 'pretrained', 'train', 'transfer', 'metrics', 'program',
                 'recipes', 'models', 'parallel', 'tools'), 'errors': (),
    '__init__': ('models', 'pretrained', 'inference')}


def modules():
  return sorted(PACKAGE.rglob('*.py'))


def imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield from ([f'{node.module}.{alias.name}' for alias in node.names]
                  if node.module == 'vit_jax' else [node.module])


@pytest.mark.parametrize('path', modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
  part = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
  for name in imports(path):
    if name.startswith('vit_jax.'):
      target = name.split('.')[1]
      assert target == 'errors' or target in ALLOWED[part], f'{path.name} imports {name}'
    if name.split('.')[0] == 'ml_collections':
      assert part in ('program', 'train', 'inputs', 'evaluations', 'tools', 'config',
                      'config_args', 'recipes', 'transfer')
    assert name.split('.')[0] != 'tensorflow' or path.name == 'prepare.py'


def test_importing_starts_nothing():
  """No device is touched and no TensorFlow loaded by the import of every module."""
  names = ['.'.join(('vit_jax', *p.relative_to(PACKAGE).with_suffix('').parts))
           for p in modules() if p.name != '__init__.py']
  code = f'''
import importlib, sys
for name in {names}: importlib.import_module(name)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert 'tensorflow' not in sys.modules
'''
  subprocess.run([sys.executable, '-c', code], check=True)
