"""Errors that libraries of remote storage raise."""


class ParamValidationError(Exception):
  """The error of botocore for a bucket whose name is not valid."""


def caused(cause):
  """Return an error that another one has caused."""
  error = OSError('Cannot connect')
  error.__cause__ = cause
  return error
