import logging

import pytest


@pytest.fixture
def warnings(caplog):
  caplog.set_level(logging.WARNING, 'vit_jax')
  return lambda: [r.getMessage() for r in caplog.records if r.name == 'vit_jax']
