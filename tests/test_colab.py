"""The notebook runs from top to bottom, without a network and with one."""

import ast
import base64
import functools
import http.server
import os
import re
import threading

import cv2
import jax
import nbclient
import nbformat
import numpy as np
import pytest

from tests.helpers.paths import ROOT
from vit_jax import create_model, load_params, predict, save_params
from vit_jax.data import class_names
from vit_jax.data.decode import decode_image
from vit_jax.data.open_source import open_source
from vit_jax.pretrained.load import abstract_params

COLAB = ROOT / 'colab'
TINY = dict(hidden_dim=64, mlp_dim=128, num_heads=4, num_layers=2)


def read():
  return nbformat.read(COLAB / 'vit_jax.ipynb', 4)


def cell(notebook, ident):
  return next(c for c in notebook.cells if c.id == ident)


def execute(notebook, directory, **environment):
  """Run the notebook in `directory`, in a kernel with one device. Return it with its outputs."""
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | environment
  nbclient.NotebookClient(
    notebook,
    timeout=600,
    kernel_name='python3',
    coalesce_streams=True,
    resources={'metadata': {'path': str(directory)}},
  ).execute(env=env)
  return notebook


def text(notebook, ident):
  """Return the text that a cell printed. Check that nothing is on stderr."""
  streams = [o for o in cell(notebook, ident).outputs if o.output_type == 'stream']
  assert all(o.name == 'stdout' for o in streams), streams
  return ''.join(o.text for o in streams)


def figures(notebook):
  """Return {cell: picture (H, W, 3)}."""
  return {
    c.id: cv2.imdecode(np.frombuffer(base64.b64decode(o.data['image/png']), np.uint8), 1)
    for c in notebook.cells
    if c.cell_type == 'code'
    for o in c.outputs
    if 'image/png' in o.get('data', {})
  }


@pytest.fixture(scope='module')
def offline(tmp_path_factory):
  directory = tmp_path_factory.mktemp('offline')
  notebook = execute(read(), directory, https_proxy='http://127.0.0.1:9', no_proxy='')
  return notebook, directory


@pytest.mark.slow
def test_offline_it_goes_on_with_the_tiny_model_and_tunes_it(offline, digits_dir):
  notebook, directory = offline
  for c in notebook.cells:
    if c.cell_type == 'code':
      text(notebook, c.id)  # asserts that stderr is empty
  assert text(notebook, 'choose').startswith('No download (')
  assert text(notebook, 'choose').count('\n') == 1
  assert '5 classes, 71,685 parameters' in text(notebook, 'load')
  test = open_source('digits', 'test', digits_dir)
  labels = [x['label'] for x in map(test.__getitem__, range(30)) if x['label'] < 5][:6]
  predictions = re.findall(r'picture (\d): (\d) (\d+\.\d)%', text(notebook, 'classify'))
  assert [int(label) for _, label, _ in predictions] == labels
  assert all(float(probability) > 80 for *_, probability in predictions)
  log = text(notebook, 'finetune')
  assert 'Replaced the head of 5 classes with a new head of 10 classes, initialized to zero.' in log
  before, after = re.search(r'before: (.*)%, after: (.*)%', log).groups()
  assert float(before) < 15 and float(after) > 90
  wrong, of = re.search(r'(\d+) of (\d+) are wrong', text(notebook, 'grid')).groups()
  assert of == '360' and round(100 * (1 - int(wrong) / 360), 1) == float(after)
  assert 'the same logits' in text(notebook, 'save')
  tuned = create_model('ViT-Ti/4', num_classes=10, image_size=16, **TINY)
  params = load_params(directory / 'runs/my_vit.npz', tuned)
  images = [decode_image(x['image']) for x in test]
  right = [p[0].label == x['label'] for p, x in zip(predict(tuned, params, images), test)]
  assert 360 - sum(right) == int(wrong)


@pytest.mark.slow
def test_offline_figures(offline):
  pictures = figures(offline[0])
  assert list(pictures) == ['classify', 'look', 'curves', 'grid']
  for picture in pictures.values():
    assert picture.shape[1] > 900 and picture.std() > 20
  grid = pictures['grid'].astype(int)
  blue, green, red = grid[..., 0], grid[..., 1], grid[..., 2]
  assert ((red - np.maximum(blue, green)) > 200).sum() > 20  # some titles are red


def test_online_it_takes_the_published_checkpoint(tmp_path):
  """A local server stands in for the public one. Its file has random parameters."""
  notebook = read()
  published, _ = choices(notebook)
  address, name, image_size = published['ViT-Ti/16, 224 px, AugReg']
  model = create_model(name, num_classes=1000, image_size=image_size)
  rng = np.random.default_rng(0)
  save_params(
    jax.tree.map(lambda x: rng.normal(0, 0.02, x.shape).astype(np.float32), abstract_params(model)),
    tmp_path / 'server' / address,
  )
  requests = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, _, request, *more):
      requests.append(request)

  server = http.server.ThreadingHTTPServer(
    ('127.0.0.1', 0), functools.partial(Handler, directory=tmp_path / 'server')
  )
  threading.Thread(target=server.serve_forever, daemon=True).start()
  source = cell(notebook, 'choose').source
  source = source.replace(
    'https://storage.googleapis.com/', f'http://127.0.0.1:{server.server_port}/'
  )
  source = re.sub(
    "^published = '[^']*'", "published = 'ViT-Ti/16, 224 px, AugReg'", source, flags=re.M
  )
  cell(notebook, 'choose').source = source
  last = [c.id for c in notebook.cells].index('config')
  notebook.cells = notebook.cells[: last + 1]  # training takes a minute, and is tested offline
  try:
    execute(notebook, tmp_path, no_proxy='127.0.0.1')
  finally:
    server.shutdown()
  assert requests == [f'GET /{address} HTTP/1.1']
  assert text(notebook, 'choose') == ''
  assert '224 px, 1,000 classes, 5,717,416 parameters' in text(notebook, 'load')
  assert (tmp_path / 'runs/checkpoints' / address.rsplit('/')[-1]).exists()
  names = re.findall(r'picture \d: (.*?) [\d.]+%', text(notebook, 'classify'))
  assert len(names) == 2 and set(names) <= set(class_names.imagenet_names(1000))
  assert all(figures(notebook)[c].std() > 20 for c in ('classify', 'look'))
  config = text(notebook, 'config')
  assert 'Replaced the head of 1000 classes with a new head of 10 classes' in config
  assert 'Resized the position embedding from 14x14 patches to a grid of 4x4 patches' in config
  assert float(re.search(r'accuracy before: (.*)%', config)[1]) < 15


def choices(notebook):
  """Return the table of published checkpoints and the choices of the form, its default first."""
  source = cell(notebook, 'choose').source
  table, default = (ast.literal_eval(node.value) for node in ast.parse(source).body[:2])
  return table, [default, *ast.literal_eval(re.search(r'#@param (\[.*\])', source)[1])]


def test_the_form_offers_what_can_be_built():
  table, (default, *offered) = choices(read())
  assert offered == list(table) and default in table
  for published, (address, name, image_size) in table.items():
    assert re.fullmatch(r'(vit|bit)_models/[\w+./-]+\.npz', address)
    assert f' {image_size} px' in published
    create_model(name, num_classes=1000, image_size=image_size)
    size = 4 * int(name.split('/')[1]) if '/' in name else 128  # as the notebook fine-tunes
    tuned = create_model(name, num_classes=10, image_size=size)
    assert 'BiT' in name or tuned.grid == (4, 4)


def test_with_neither_network_nor_file_it_says_so(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
  monkeypatch.delenv('no_proxy', raising=False)
  import vit_jax

  monkeypatch.setattr(vit_jax, '__file__', str(tmp_path / 'site-packages/vit_jax/__init__.py'))
  source = 'import pathlib, urllib.request, vit_jax\n' + cell(read(), 'choose').source
  with pytest.raises(
    FileNotFoundError,
    match=r'^Cannot download .*S_16.*npz: .* Without a network, this notebook needs digits.npz '
    'from the folder colab/ of a checkout.$',
  ):
    exec(source, {})


def test_the_tiny_model_knows_digits_it_has_not_seen(digits_dir):
  assert (COLAB / 'digits.npz').stat().st_size < 450_000
  model = create_model('ViT-Ti/4', num_classes=5, image_size=16, **TINY)
  params = load_params(COLAB / 'digits.npz', model)
  examples = [x for x in open_source('digits', 'test', digits_dir) if x['label'] < 5]
  assert len(examples) == 182
  results = predict(model, params, [decode_image(x['image']) for x in examples], top_k=1)
  accuracy = np.mean([r[0].label == x['label'] for r, x in zip(results, examples)])
  assert accuracy > 0.97


def test_it_is_committed_without_outputs():
  notebook = read()
  nbformat.validate(notebook)
  for c in notebook.cells:
    if c.cell_type == 'code':
      assert c.outputs == [] and c.execution_count is None
      long = [line for line in c.source.splitlines() if len(line) > 100 and '#@param' not in line]
      assert not long
