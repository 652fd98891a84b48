import pytest

from vit_jax.tools import report as tool


@pytest.mark.parametrize(
  'content, words',
  [
    (None, '{} is not the workdir of a run: it has no config.json. Check the path.'),
    ('{', 'Cannot read {}/config.json: Expecting property name enclosed in double quotes'),
    (
      '{"a": 1}',
      '{}/config.json is not the config of a run: it does not name a model and a dataset.',
    ),
  ],
)
def test_no_run(tmp_path, capsys, content, words):
  if content:
    (tmp_path / 'config.json').write_text(content)
  assert tool.main([str(tmp_path)]) == 1
  error = capsys.readouterr().err
  assert error.startswith('error: ' + words.format(tmp_path)) and error.count('\n') == 1
  assert not (tmp_path / 'report.html').exists()


def test_arguments(tmp_path, capsys):
  assert tool.main([str(tmp_path), '--num_images=0']) == 1
  assert capsys.readouterr().err == 'error: --num_images must be at least 1, but it is 0.\n'
