"""Reset the log of the package between tests, and collect its messages."""

import logging

import pytest


@pytest.fixture(autouse=True)
def reset_log():
  """Forget where a training in this process has sent the log, such as a stream that is closed."""
  log = logging.getLogger('vit_jax')
  log.handlers, log.propagate = [], True
  log.setLevel(logging.NOTSET)


@pytest.fixture
def messages(monkeypatch, reset_log):
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
