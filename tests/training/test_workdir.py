"""A workdir also gets the time of the first start and the config."""

import json

from vit_jax.config import default_config
from vit_jax.config.old_spellings import OLD_SPELLINGS
from vit_jax.training.workdir import first_start, write_config


def test_the_first_start_stays(tmp_path):
  started = first_start(tmp_path)
  assert started > 1.7e9
  assert first_start(tmp_path) == started


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
