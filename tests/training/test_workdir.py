"""A workdir also gets the time of the first start and the config."""

import json
import os
import re
import tempfile
import time

from etils import epath
import jax
import pytest

from vit_jax.config import default_config
from vit_jax.config.old_spellings import OLD_SPELLINGS
from vit_jax.errors import InputError
from vit_jax.training.resume import check_fields
from vit_jax.training.workdir import first_start, lock_workdir, prepare_workdir, write_config


def test_the_first_start_stays(tmp_path):
  started = first_start(tmp_path)
  assert started > 1.7e9
  assert first_start(tmp_path) == started


@pytest.mark.parametrize(
  'text', [b'', b'yesterday', b'\xff\xfe', b'nan', b'-1', b'0', b'1e300', b'\0' * 20], ids=repr
)
def test_a_first_start_that_is_no_time_is_named_and_replaced(tmp_path, text, messages):
  path = tmp_path / 'started'
  path.write_bytes(text)
  started = first_start(tmp_path)
  assert abs(started - time.time()) < 100 and first_start(tmp_path) == started
  assert messages == [f'{path} holds {text!r} instead of a time. The start of the run is unknown.']


@pytest.mark.parametrize(
  'text', ['', '{"model": "ViT-B/16"', '[]', '\0' * 100], ids=['empty', 'half', 'list', 'zeros']
)
def test_a_damaged_config_is_named_kept_and_replaced(tmp_path, text, messages):
  path = tmp_path / 'config.json'
  path.write_text(text)
  check_fields(default_config(), tmp_path)
  write_config(default_config(), tmp_path)
  assert json.loads(path.read_text())['model'] == default_config().model
  assert (tmp_path / 'config.json.damaged').read_text() == text
  (message,) = messages
  assert message.endswith(f'It is kept as {path}.damaged. The run goes on with the given config.')
  assert str(path) in message


def test_the_config_is_written_and_changes_are_logged(tmp_path, messages):
  c = default_config()
  c.lr = 0.5
  write_config(c, tmp_path)
  assert not messages
  c.lr = 0.25
  write_config(c, tmp_path)
  assert messages == ['Note: config.lr was 0.5 and is now 0.25.']
  assert json.loads((tmp_path / 'config.json').read_text()) == json.loads(json.dumps(c.to_dict()))


def test_old_spellings_are_no_changes(tmp_path, messages):
  c = default_config()
  old = {field: OLD_SPELLINGS.get(field, value) for field, value in c.items()} | {'clip_norm': 1.0}
  (tmp_path / 'config.json').write_text(json.dumps(old))
  write_config(c, tmp_path)
  assert not messages


def test_a_second_run_in_a_workdir_is_refused(tmp_path, monkeypatch):
  workdir = tmp_path / 'runs' / 'a'
  with lock_workdir(workdir):
    assert [path.name for path in workdir.iterdir()] == ['lock.json']
    with pytest.raises(InputError) as error, lock_workdir(workdir):
      pass
    assert re.fullmatch(
      f'The workdir {workdir} is in use by process {os.getpid()} on \\S+, which started at '
      r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC. Wait for that run to end, stop it, or choose another '
      'directory with --workdir=DIR.',
      str(error.value),
    )
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    with lock_workdir(workdir) as lock:  # the other processes of a job rely on process 0
      assert lock is None
  assert not list(workdir.iterdir())


def test_only_the_workdir_is_called_unwritable(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError) as e:
    prepare_workdir(tmp_path / 'file')
  assert str(e.value) == (
    f'Cannot write to the workdir {tmp_path}/file: Not a directory. Choose another with '
    '--workdir=DIR.'
  )
  (tmp_path / 'run' / 'log.txt').mkdir(parents=True)
  with pytest.raises(InputError) as e:
    prepare_workdir(tmp_path / 'run')
  assert str(e.value) == (
    f'Cannot write to the workdir {tmp_path}/run: Is a directory. Choose another with '
    '--workdir=DIR.'
  )
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'none'))  # of the copies of a bucket
  with pytest.raises(FileNotFoundError, match=f'{tmp_path}/none/vit_jax_'):
    prepare_workdir(epath.Path(tmp_path / 'bucket'))


def test_a_workdir_that_cannot_be_locked_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError) as error, lock_workdir(tmp_path / 'file'):
    pass
  assert str(error.value) == (
    f'Cannot write to the workdir {tmp_path}/file: File exists. Choose another with --workdir=DIR.'
  )
