"""Some failures of requests pass, others never do, and some want another login."""

import socket
import ssl

import pytest

from tests.helpers.request_errors import ParamValidationError, caused
from vit_jax.data.request_failures import (
  how_to_log_in,
  http_status,
  is_denied,
  may_pass,
  short_reason,
)


class Answer(Exception):
  """An error as gcsfs and aiohttp raise them."""

  def __init__(self, status):
    super().__init__('failed')
    self.status = status


class NoCredentialsError(Exception):
  """An error of botocore."""


@pytest.mark.parametrize(
  'error, passes, denied',
  [
    (Answer(503), True, False),
    (Answer(404), False, False),
    (Answer(403), False, True),
    (OSError('Forbidden: no'), False, True),
    (NoCredentialsError('Unable to locate credentials'), False, True),
    (ConnectionResetError('reset'), True, False),
    (TimeoutError(), True, False),
    (RuntimeError("can't start new thread"), False, False),
    (caused(socket.gaierror(socket.EAI_AGAIN, 'Temporary failure')), True, False),
    (caused(socket.gaierror(socket.EAI_NONAME, 'Name or service not known')), False, False),
    (caused(ssl.SSLCertVerificationError(1, 'certificate verify failed')), False, False),
    (caused(ssl.SSLError(1, 'unexpected end')), True, False),
    (caused(ParamValidationError('Invalid bucket name')), False, False),
  ],
)
def test_what_a_failure_means(error, passes, denied):
  assert (may_pass(error), is_denied(error)) == (passes, denied)


def test_the_status_of_botocore():
  error = caused(ValueError())
  error.__cause__.response = {'ResponseMetadata': {'HTTPStatusCode': 403}}
  assert http_status(error) == 403 and http_status(ValueError()) is None


def test_words():
  assert short_reason(Answer(429)) == 'HTTP 429 Too Many Requests'
  assert short_reason(TimeoutError()) == 'no answer within 60 seconds'
  assert short_reason(OSError('It broke.')) == 'It broke'
  assert how_to_log_in('https://a/b') == 'Check the address.'
  assert how_to_log_in('s3://b') == 'Check the address, or log in with `aws configure`.'
