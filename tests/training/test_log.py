import logging

from vit_jax.training.log import duration, log, start_log


def test_durations_read_well():
  assert [duration(s) for s in (0.2, 59, 150, 7260, 93784, float('inf'))] == [
    '0s',
    '59s',
    '2m 30s',
    '2h 1m',
    '1d 2h',
    '?',
  ]


def test_the_log_goes_to_its_file(tmp_path):
  start_log(tmp_path / 'log.txt')
  log.info('step %d', 3)
  log.info('caf\udce9 é')
  logging.getLogger('other').info('not here')
  first, second = (tmp_path / 'log.txt').read_text(encoding='utf-8').splitlines()
  assert first.endswith(' step 3') and second.endswith(' caf\\udce9 é')
