"""Judge why a request to remote storage failed: whether to repeat it, and what to tell the user."""

from __future__ import annotations

import http
import socket
import ssl

from vit_jax.errors import causes, first_line, machine_failure
from vit_jax.files import TRY_AGAIN

TIMEOUT = 60  # seconds to wait for a whole answer; gcsfs repeats requests for 30 s by itself
_PERMANENT = (
  FileNotFoundError,
  PermissionError,
  ImportError,
  ValueError,
  TypeError,
  NotImplementedError,
)


def is_denied(error: BaseException) -> bool:
  """Return True if the storage wants another login."""
  return (
    http_status(error) in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
    or isinstance(error, PermissionError)
    or 'Credentials' in type(error).__name__
    or first_line(error).startswith('Forbidden')
  )


def how_to_log_in(address: str) -> str:
  """Return what to do if access to an address is denied."""
  commands = {
    'gs': 'gcloud auth application-default login',
    'hf': 'hf auth login',
    's3': 'aws configure',
  }
  command = commands.get(address.split('://', 1)[0])
  login = f', or log in with `{command}`' if command else ''
  return f'Check the address{login}.'


def http_status(error: BaseException) -> int | None:
  """Return the HTTP status that an error of a file system carries, or None."""
  for cause in causes(error):
    response = getattr(cause, 'response', None)  # of botocore
    metadata = response.get('ResponseMetadata', {}) if isinstance(response, dict) else {}
    status = getattr(cause, 'status', None) or metadata.get('HTTPStatusCode')
    status = status or getattr(response, 'status_code', None)  # of huggingface_hub
    status = status or getattr(cause, 'code', None)  # of gcsfs; in aiohttp it is deprecated
    if str(status).isdecimal():
      return int(str(status))
  return None


def may_pass(error: BaseException) -> bool:
  """Return True if the same request may succeed later."""
  if status := http_status(error):
    return status in TRY_AGAIN
  if 'Credentials' in type(error).__name__ or getattr(error, 'retryable', True) is False:
    return False  # botocore and google.auth find no login, or one that has expired
  if machine_failure(error) or isinstance(error, _PERMANENT):
    return False
  if first_line(error).startswith('Forbidden'):
    return False
  return not any(
    isinstance(cause, ssl.SSLCertVerificationError)
    or (isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME)
    or type(cause).__name__ == 'ParamValidationError'  # of botocore: no valid name of a bucket
    for cause in causes(error)
  )


def short_reason(error: BaseException) -> str:
  """Return in a few words why a request failed."""
  if status := http_status(error):
    names = {int(s): s.phrase for s in http.HTTPStatus}
    return f'HTTP {status} {names.get(status, "")}'.rstrip()
  if isinstance(error, TimeoutError) and not str(error):
    return f'no answer within {TIMEOUT} seconds'
  return first_line(error).rstrip('.')
