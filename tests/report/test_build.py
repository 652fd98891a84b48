"""The page of a run: its contents, its notes on missing results, and its look in a browser."""

import html.parser
import json
import os
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from vit_jax.config.fields import default_config
from vit_jax.data.decode import decode_image
from vit_jax.data.open_source import open_source
from vit_jax.data.preprocess import resize
from vit_jax.evaluation.eval_split import open_eval_split
from vit_jax.inference.load_checkpoint import checkpoint_run
from vit_jax.report.build import make_report
from vit_jax.tools import figures
from vit_jax.tools import report as tool

SECTIONS = [
  'Learning curves',
  'Final metrics',
  'Example predictions',
  'What the model learned',
  'Throughput',
  'Config',
  'Checkpoints',
]
PICTURES = [
  'learning curves',
  'filters',
  'position similarity',
  'attention distance',
  'rollout',
  'attention maps',
]


@pytest.fixture(scope='module')
def written(trained, tmp_path_factory):
  """Return the page of the trained run."""
  out = tmp_path_factory.mktemp('page') / 'report.html'
  assert tool.main([str(trained), f'--out={out}', '--num_images=64']) == 0
  return out


class Page(html.parser.HTMLParser):
  """Collects the contents of a page: headings, table cells, images, notes on missing results."""

  def __init__(self, text):
    super().__init__()
    self.headings, self.images, self.addresses, self.missing = [], [], [], []
    self.tables, self._at, self._in = {}, None, None
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self._in = 'missing' if attributes.get('class') == 'missing' else tag
    if tag == 'section':
      self._at = attributes['id']
    if tag == 'tr':
      self.tables.setdefault(self._at, []).append([])
    if tag in ('td', 'th'):
      self.tables[self._at][-1].append('')
    if tag == 'img':
      self.images.append(attributes)
    self.addresses += [v for k, v in attributes.items() if k in ('src', 'href', 'srcset')]

  def handle_data(self, data):
    if self._in == 'h2':
      self.headings.append(data)
    elif self._in == 'missing':
      self.missing.append(data)
    elif self._in in ('td', 'th', 'code') and self.tables.get(self._at) and data.strip():
      self.tables[self._at][-1][-1] += data

  def handle_endtag(self, tag):
    self._in = None


def last(workdir, name):
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [line[name] for line in lines if name in line][-1]


def test_page(trained, written):
  text = written.read_text()
  parsed = Page(text)
  assert len(text.encode()) < 3_000_000
  assert all(address.startswith('data:') for address in parsed.addresses)
  assert not re.search(r'url\(|@import|<script|<link (?!rel="icon" href="data:,")', text)
  assert (parsed.headings, parsed.missing) == (SECTIONS, [])
  assert '<h1>a &lt;small&gt; run</h1>' in text
  assert [i['alt'] for i in parsed.images if i['alt'] in PICTURES] == PICTURES
  metrics = {row[0]: row[1:] for row in parsed.tables['metrics']}
  accuracy = last(trained, 'eval/accuracy')
  assert metrics['eval/accuracy'] == [f'{accuracy:.2%}', '40']
  assert metrics['eval/examples'] == ['360', '40']
  assert metrics['train/loss'] == [f'{last(trained, "train/loss"):.4g}', '40']
  config = {row[0]: row[1:] for row in parsed.tables['config']}
  assert config['hidden_dim'] == ['32', 'null'] and config['model'] == ['"ViT-Ti/4"', '"ViT-B/16"']
  assert config['mesh'] == ['[0, 1]']  # folded
  assert set(config) - {'field'} == set(default_config())
  speed = {row[0]: row[1:] for row in parsed.tables['throughput']}
  assert speed['images per second'][1] == f'{last(trained, "train/images_per_second"):,.1f}'
  assert speed['goodput (fraction of wall time since the start)'][0] == ''
  assert [row[0] for row in parsed.tables['checkpoints']] == ['step', '40', '20']


def test_examples_right_and_wrong(trained, written):
  text = written.read_text()
  (right,) = re.findall(
    r'<p>(\d+) of 64 evenly spaced images of digits, test are predicted correctly.</p>', text
  )
  wrong = re.findall(r'<b>✗ (\d)</b> (\d+)&nbsp;%<br>label: (\d)<', text)
  assert 0 < int(right) < 64 and len(wrong) == min(12, 64 - int(right))
  assert all(predicted != label for predicted, _, label in wrong)
  sure = [int(p) for _, p, _ in wrong]
  assert sure == sorted(sure, reverse=True)
  assert len(re.findall('<figure class="right">', text)) == min(12, int(right))


def browser():
  names = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
  path = next(filter(None, map(shutil.which, names)), None)
  if not path:
    pytest.skip(f'there is no browser: none of {", ".join(names)} is installed')
  return path


def browse(written, tmp_path, *flags):
  return subprocess.run(
    [
      browser(),
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--hide-scrollbars',
      '--disable-dev-shm-usage',
      f'--user-data-dir={tmp_path}/profile',
      '--virtual-time-budget=5000',
      *flags,
      written.as_uri(),
    ],
    check=True,
    capture_output=True,
    text=True,
    timeout=120,
    env={**os.environ, 'HOME': str(tmp_path)},
  )


CHECK = """<script>addEventListener('load', () => {
  const images = [...document.images], root = document.documentElement;
  root.dataset.seen = JSON.stringify({
    widths: images.map(i => i.naturalWidth),
    shown: images.map(i => i.getBoundingClientRect().width),
    headings: [...document.querySelectorAll('h2')].map(h => h.innerText),
    accuracy: [...document.querySelectorAll('#metrics tr')].map(r => r.innerText.split('\\t')),
    scroll: root.scrollWidth, client: root.clientWidth,
    requests: performance.getEntriesByType('resource').filter(
      r => !r.name.startsWith('data:')).map(r => r.name),
    ink: getComputedStyle(document.body).color,
    paper: getComputedStyle(document.body).backgroundColor})})</script>"""


@pytest.mark.parametrize('width', [1200, 500])
def test_in_a_browser(trained, written, tmp_path, width):
  checked = tmp_path / 'checked.html'
  checked.write_text(written.read_text().replace('</head>', CHECK + '</head>'))
  dom = browse(checked, tmp_path, f'--window-size={width},900', '--dump-dom').stdout
  seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
  assert seen['headings'] == SECTIONS
  assert len(seen['widths']) == len(Page(written.read_text()).images)
  assert min(seen['widths']) >= 16 and min(seen['shown']) > 50
  assert ['eval/accuracy', f'{last(trained, "eval/accuracy"):.2%}', '40'] in seen['accuracy']
  assert seen['scroll'] == seen['client'] == width  # nothing is wider than the window
  assert seen['requests'] == []
  assert seen['ink'] != seen['paper']


def test_light_and_dark(written, tmp_path):
  def paper(*flags):
    browse(written, tmp_path, '--window-size=800,1000', f'--screenshot={tmp_path}/shot.png', *flags)
    pixels = cv2.imread(str(tmp_path / 'shot.png'))
    assert pixels.shape == (1000, 800, 3) and pixels.std() > 10
    return pixels[2, 2].tolist()

  assert paper() == [255, 255, 255]
  assert paper('--blink-settings=preferredColorScheme=0') == [0x1B, 0x17, 0x14]


def test_a_run_that_has_just_begun(trained, tmp_path, capsys):
  workdir = tmp_path / 'new'
  workdir.mkdir()
  (workdir / 'config.json').write_text((trained / 'config.json').read_text())
  assert tool.main([str(workdir)]) == 0
  assert capsys.readouterr().out.startswith(f'wrote {workdir}/report.html (0.0 MB)')
  parsed = Page((workdir / 'report.html').read_text())
  assert parsed.headings == SECTIONS and not parsed.images
  no_metrics = (
    f'Cannot read {workdir}/metrics.jsonl: No such file or directory. Give the workdir of a run.'
  )
  no_checkpoint = 'There is no checkpoint yet. The run writes one every save_every steps.'
  assert parsed.missing == [
    no_metrics,
    no_metrics,
    no_checkpoint,
    no_checkpoint,
    no_metrics,
    no_checkpoint,
  ]
  assert ['model', '"ViT-Ti/4"', '"ViT-B/16"'] in parsed.tables['config']


def test_a_damaged_config_and_a_damaged_line_of_metrics(tmp_path, messages):
  workdir = tmp_path / 'run'
  workdir.mkdir()
  (workdir / 'config.json').write_text('')
  (workdir / 'metrics.jsonl').write_text('{"step": 1, "train/loss": 0.5}\n\n')
  parsed = Page(make_report(str(workdir)))
  assert parsed.headings == SECTIONS
  assert ['train/loss', '0.5', '1'] in parsed.tables['metrics']
  error = f'Cannot read {workdir}/config.json: it is empty.'
  assert error in parsed.missing
  assert messages == [
    f'{error} The report goes on without it.',
    f'{workdir}/metrics.jsonl: Left out damaged or empty lines: 2.',
  ]


def test_the_figures_tool_takes_the_same_images(trained, digits_dir, tmp_path, capsys):
  """Without --images, the tool looks at the images that the run evaluates on."""
  split = open_eval_split(checkpoint_run(str(trained)).config)
  images = list(split.images(3))
  source = open_source('digits', 'test', digits_dir)
  assert split.name == 'digits, test' and len(images) == 3
  for image, i in zip(images, (0, 180, 359)):
    np.testing.assert_array_equal(image, resize(decode_image(source[i]['image']), 16, 16))
  assert figures.main([f'--checkpoint={trained}', f'--out={tmp_path}', '--num_images=3']) == 0
  assert 'Images: digits, test\n' in capsys.readouterr().out


def test_dataset_not_on_disk(trained, tmp_path, capsys):
  workdir = tmp_path / 'moved'
  shutil.copytree(trained, workdir)
  config = json.loads((workdir / 'config.json').read_text())
  config |= dict(dataset='cifar10', data_dir=str(tmp_path / 'nowhere'))
  (workdir / 'config.json').write_text(json.dumps(config))
  parsed = Page(make_report(str(workdir)))
  assert len(parsed.missing) == 2 and 'cifar10' in parsed.missing[0], parsed.missing
  assert parsed.missing[1] == (
    'Not drawn: attention distance, rollout and maps. There are no images to look at.'
  )
  assert [i['alt'] for i in parsed.images] == PICTURES[:3]
  assert figures.main([f'--checkpoint={workdir}', f'--out={tmp_path}/out']) == 0
  assert (
    "Images: two photographs, because the run's evaluation split cannot be opened. "
    in capsys.readouterr().out
  )
