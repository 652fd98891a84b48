"""Test how make sets up its environment, with stand-ins for Python and pip."""

import os
import shutil
import subprocess

import pytest

from tests.helpers.paths import ROOT

NAMES = ['python3.14', 'python3.13', 'python3.12', 'python3.11', 'python3', 'python']
# Answers what .ci/venv asks of an interpreter, and writes down what it is told to do.
PYTHON = """#!/usr/bin/env bash
case "$*" in
  *version_info*) {version};;
  *sys.executable*) real=$(dirname "$0")/real; if [[ ! -e $real ]]; then real=$0; fi; echo "$real";;
  '-m venv '*) echo "$2 $3" >> calls; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"
               touch "$4/pyvenv.cfg";;
  '-m pip '*) echo "pip ${{*: -4}}" >> calls; [[ ! -e no_network ]];;
  *) exit 1;;
esac
"""
NEW = ['venv --clear', 'pip --constraint constraints.txt --editable .[test]']
OLD = ['venv --clear', 'pip --constraint constraints-py311.txt --editable .[test]']


@pytest.fixture
def checkout(tmp_path):
  """Return a function that runs .ci/venv where certain interpreters are installed."""
  (tmp_path / 'checkout').mkdir()
  (tmp_path / 'checkout/.ci').mkdir()
  for file in ('.ci/venv', 'setup.py', 'constraints.txt', 'constraints-py311.txt'):
    shutil.copy(ROOT / file, tmp_path / 'checkout' / file)

  class Checkout:
    folder = tmp_path / 'checkout'
    bin = tmp_path / 'bin'

    def install(self, **versions):
      """Install only these interpreters. Others fail, as those that pyenv has not selected do."""
      shutil.rmtree(self.bin, ignore_errors=True)
      self.bin.mkdir()
      for name in {*NAMES, *versions}:
        version = versions.get(name, 'exit 127')
        version = f'echo {version}' if version[0].isdigit() else version
        (self.bin / name).write_text(PYTHON.format(version=version))
        (self.bin / name).chmod(0o755)

    def make(self, *python):
      """Return the exit code, the output, the errors and what Python was told to do."""
      (self.folder / 'calls').unlink(missing_ok=True)
      done = subprocess.run(
        [self.folder / '.ci/venv', '.venv', *python],
        env=os.environ | {'PATH': f'{self.bin}:{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
      )
      calls = self.folder / 'calls'
      return (
        done.returncode,
        done.stdout.replace(f'{self.bin}/', ''),
        done.stderr,
        calls.read_text().splitlines() if calls.exists() else [],
      )

  return Checkout()


def says(version, python, constraints='constraints.txt'):
  return f'Setting up .venv with Python {version} ({python}) and {constraints}\n'


def test_the_newest_python_is_taken_and_then_kept(checkout):
  checkout.install(**{'python3.11': '3.11', 'python3.12': '3.12', 'python3': '3.11'})
  assert checkout.make() == (0, says('3.12', 'python3.12'), '', NEW)
  assert checkout.make() == (0, '', '', [])
  checkout.install(**{'python3.13': '3.13', 'python3.12': '3.12'})
  assert checkout.make() == checkout.make('') == (0, '', '', [])


@pytest.mark.parametrize('name', ['python3.11', 'python3', 'python'])
def test_nothing_but_python_3_11(checkout, name):
  checkout.install(**{name: '3.11'})
  assert checkout.make() == (0, says('3.11', name, 'constraints-py311.txt'), '', OLD)


def test_pyenv_that_lacks_the_version_of_this_folder(checkout):
  checkout.install(**{'python3.11': '[[ $PWD == / ]] && echo 3.11', 'real': '3.11'})
  assert checkout.make() == (0, says('3.11', 'real', 'constraints-py311.txt'), '', OLD)


def test_packages_that_change(checkout):
  checkout.install(**{'python3.13': '3.13'})
  checkout.make()
  with open(checkout.folder / 'constraints-py311.txt', 'a') as f:
    f.write('# of no concern for 3.13\n')
  assert checkout.make() == (0, '', '', [])
  for file in ('constraints.txt', 'setup.py'):
    with open(checkout.folder / file, 'a') as f:
      f.write('# changed\n')
    assert checkout.make() == (0, says('3.13', 'python3.13'), '', NEW[1:])


def test_an_environment_of_an_earlier_commit_gets_the_newest_python(checkout):
  checkout.install(**{'python3': '3.11'})
  checkout.make()
  (checkout.folder / '.venv/installed').write_text('')  # all that it said
  checkout.install(**{'python3.13': '3.13', 'python3': '3.11'})
  assert checkout.make() == (0, says('3.13', 'python3.13'), '', NEW)


def test_a_python_that_is_asked_for(checkout):
  checkout.install(**{'python3.13': '3.13', 'python3.11': '3.11'})
  assert checkout.make('python3.11') == (
    0,
    says('3.11', 'python3.11', 'constraints-py311.txt'),
    '',
    OLD,
  )
  assert checkout.make('python3.11') == checkout.make() == (0, '', '', [])
  assert checkout.make('python3.13') == (0, says('3.13', 'python3.13'), '', NEW)


def test_an_environment_whose_python_is_gone(checkout):
  checkout.install(**{'python3.13': '3.13'})
  checkout.make()
  (checkout.folder / '.venv/bin/python').unlink()
  assert checkout.make() == (0, says('3.13', 'python3.13'), '', NEW)


def test_an_installation_that_failed_is_done_again(checkout):
  checkout.install(**{'python3.13': '3.13'})
  (checkout.folder / 'no_network').touch()
  code, *_ = checkout.make()
  assert code != 0
  (checkout.folder / 'no_network').unlink()
  assert checkout.make() == (0, says('3.13', 'python3.13'), '', NEW[1:])


@pytest.mark.parametrize('version', ['exit 127', '2.7', '3.9', '3.10'])
def test_no_python_that_is_new_enough(checkout, version):
  checkout.install(python3=version)
  assert checkout.make() == (
    1,
    '',
    'error: vit_jax needs Python 3.11 or newer, with venv and ensurepip. None of python3.14 to '
    'python3.11, python3 and python is one. Install it, or name it: make PYTHON=PATH\n',
    [],
  )


@pytest.mark.parametrize(
  'version, message',
  [
    ('3.10', 'PYTHON=python3 is Python 3.10. vit_jax needs 3.11 or newer.'),
    ('exit 1', 'PYTHON=python3 does not run, or lacks venv and ensurepip.'),
  ],
)
def test_a_python_that_is_asked_for_and_does_not_do(checkout, version, message):
  checkout.install(**{'python3': version, 'python3.13': '3.13'})
  assert checkout.make('python3') == (1, '', f'error: {message}\n', [])


def test_a_folder_that_is_no_environment_stays(checkout):
  checkout.install(**{'python3.13': '3.13'})
  (checkout.folder / '.venv').mkdir()
  code, _, stderr, calls = checkout.make()
  assert (code, stderr, calls) == (
    1,
    'error: .venv is not a virtual environment. Move it away.\n',
    [],
  )


def test_make_passes_its_variables_on():
  command = ['make', '--dry-run', 'test', 'VENV=.venv311', 'PYTHON=python3.11', 'WORKERS=8']
  alone = {k: v for k, v in os.environ.items() if not k.startswith('MAKE')}  # of `make test` itself
  shown = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
  setup, test = shown.stdout.splitlines()
  assert setup == '.ci/venv ".venv311" "python3.11"'
  assert test.startswith('.venv311/bin/python -m pytest -q -n 8 ')
