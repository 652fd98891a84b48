"""Collect the messages that the package logs while a test runs."""

import logging

import pytest


@pytest.fixture
def messages(monkeypatch):
  """Return the messages of the package's log, as a list that grows."""
  messages = []
  handler = logging.Handler()
  handler.emit = lambda record: messages.append(record.getMessage())
  log = logging.getLogger('vit_jax')
  monkeypatch.setattr(log, 'handlers', [handler])
  monkeypatch.setattr(log, 'propagate', False)
  monkeypatch.setattr(log, 'level', logging.INFO)
  log.manager._clear_cache()
  return messages
