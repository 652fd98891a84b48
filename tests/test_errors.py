import errno
import io
import sys

import pytest

from vit_jax.errors import (
  InputError,
  exit_on_error,
  first_line,
  last_line,
  os_error_code,
  print_any_text,
  reason,
  shortlist,
  unknown,
)


def test_stdout_prints_names_that_its_encoding_lacks(monkeypatch):
  printed = io.BytesIO()
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(printed, encoding='ascii'))

  @exit_on_error
  def main():
    print('né caf\udce9', flush=True)
    return 0

  assert main() == 0 and printed.getvalue() == b'n\\xe9 caf\\udce9\n'
  monkeypatch.setattr(sys, 'stdout', None)  # as under pythonw, or after >&-
  print_any_text()


def test_an_unknown_choice_suggests_a_similar_one_and_lists_all():
  error = unknown('loss', 'sigmod', ('softmax', 'sigmoid'))
  assert isinstance(error, InputError) and isinstance(error, ValueError)
  assert str(error) == (
    "Unknown loss 'sigmod'. Did you mean 'sigmoid'? Available: softmax, sigmoid."
  )
  assert str(unknown('seed', 9, [1, 2])) == 'Unknown seed 9. Available: 1, 2.'


def test_a_long_list_ends_with_a_count():
  assert shortlist([]) == ''
  assert shortlist(iter('ab')) == 'a; b'
  assert shortlist('abcde', most=5) == 'a; b; c; d; e'
  assert shortlist('abcde', most=3) == 'a; b; c and 2 more'


def test_first_and_last_lines():
  error = ValueError('\nfirst\nmiddle\nlast\n')
  assert (first_line(error), last_line(error)) == ('first', 'last')
  assert first_line(KeyboardInterrupt()) == last_line(KeyboardInterrupt()) == 'KeyboardInterrupt'


def caused_by(cause, error):
  error.__cause__ = cause
  return error


def test_the_reason_is_what_the_operating_system_or_tensorstore_said():
  full = caused_by(ValueError("write failed os_error_code='28'"), RuntimeError('saving failed'))
  assert reason(full) == 'No space left on device' and os_error_code(full) == errno.ENOSPC
  store = caused_by(ValueError('DATA_LOSS: bad chunk [tensorstore_spec={}]'), RuntimeError('x'))
  assert reason(store) == 'DATA_LOSS: bad chunk' and os_error_code(store) is None
  denied = PermissionError(errno.EACCES, 'Permission denied')
  assert os_error_code(caused_by(denied, ValueError('y'))) == errno.EACCES
  assert reason(denied) == 'Permission denied' and reason(ValueError('one\ntwo')) == 'one'


def test_a_long_reason_keeps_its_end():
  text = 'a' * 100 + 'b' * 101
  assert reason(ValueError(text)) == f'{text[:60]} ... {text[-140:]}'
  assert reason(ValueError(text[1:])) == text[1:]


@pytest.mark.parametrize(
  'error, code, line',
  [
    (None, 0, ''),
    (InputError('Cannot read x. Check it.'), 1, 'error: Cannot read x. Check it.\n'),
    (KeyboardInterrupt(), 130, 'error: Interrupted before the end.\n'),
  ],
)
def test_a_tool_ends_in_one_line_and_an_exit_code(capsys, error, code, line):
  @exit_on_error
  def main(argv=None):
    assert argv == ['x']
    if error is not None:
      raise error
    return 0

  assert main(['x']) == code and main.__name__ == 'main'
  assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback():
  @exit_on_error
  def main(argv=None):
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    main()
