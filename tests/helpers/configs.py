"""Load the files in configs/."""

import importlib.util

from ml_collections import ConfigDict

from tests.helpers.paths import ROOT

CONFIGS = ROOT / 'configs'


def load(name: str, *arg: str) -> ConfigDict:
  """Return the config that configs/<name>.py makes."""
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*arg)
