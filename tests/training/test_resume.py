"""A resumed run is checked against what it has recorded."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tests.helpers.jobs import StopAt, interrupted
from tests.helpers.readers import WRITERS, Row
from tests.helpers.shapes import png
from vit_jax.config.fields import default_config
from vit_jax.config.run import keep_recorded
from vit_jax.data.open_source import open_source
from vit_jax.data.subset import without
from vit_jax.errors import InputError, Interrupted
from vit_jax.training import loop as train_lib
from vit_jax.training.resume import check_data, check_fields, describe_data


@pytest.fixture
def photos(tmp_path):
  rng = np.random.default_rng(0)
  for name in ('cat', 'dog'):
    directory = tmp_path / 'photos' / 'train' / name
    directory.mkdir(parents=True)
    for i in range(4):
      cv2.imwrite(str(directory / f'{i}.png'), rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
  return tmp_path / 'photos'


def config(dataset, **changes):
  c = default_config()
  c.update(
    dict(model='ViT-Ti/8', num_layers=1, hidden_dim=16, mlp_dim=32, num_heads=2, image_size=16),
    dtype='float32',
    dataset=str(dataset),
    preset='bit',
    batch_size=8,
    total_steps=4,
    warmup_steps=0,
    lr=1e-3,
    eval_split='none',
    num_threads=1,
  )
  c.update(changes)
  return c


def message(c, workdir):
  with pytest.raises(InputError) as e:
    train_lib.train(c, workdir)
  return str(e.value)


def rename(photos, old, new):
  (photos / 'train' / old).rename(photos / 'train' / new)


START = 'The training images of {} are not those that the run in {} was started with: '
END = '. Undo that, or choose another --workdir. To resume anyway, pass --resume_anyway.'


@pytest.mark.parametrize(
  'change, words',
  [
    (lambda p: rename(p, 'cat', 'kitten'), "class 'cat' is missing, and class 'kitten' is new"),
    (
      lambda p: (rename(p, 'cat', 'x'), rename(p, 'dog', 'cat'), rename(p, 'x', 'horse')),
      "class 'dog' is missing, and class 'horse' is new",
    ),
    (lambda p: shutil.copytree(p / 'train' / 'cat', p / 'train' / 'cow'), "class 'cow' is new"),
    (lambda p: shutil.rmtree(p / 'train' / 'cat'), "class 'cat' is missing"),
    (lambda p: (p / 'train' / 'cat' / '3.png').unlink(), 'there are 7 images instead of 8'),
    (
      lambda p: (p / 'train' / 'cat' / '3.png').rename(p / 'train' / 'dog' / '9.png'),
      'their names or their order have changed',
    ),
  ],
)
def test_changed_images_are_an_error(photos, change, words):
  recorded = json.loads(json.dumps(describe_data(open_source(str(photos), 'train'))))
  change(photos)
  with pytest.raises(InputError) as e:
    check_data(recorded, describe_data(open_source(str(photos), 'train')), 'photos', 'DIR')
  assert str(e.value) == START.format('photos', 'DIR') + words + END


def write_rows(root, kind, labels):
  """Write a dataset of six images with these labels. Return its name."""
  root.parent.mkdir()
  rows = [Row(f'{i}', png(i), label) for i, label in enumerate(labels)]
  return WRITERS[kind](root, {'train': rows, 'test': rows}, ['a', 'b', 'c'])[0]


@pytest.mark.parametrize('kind', ['csv', 'webdataset', 'huggingface'])
@pytest.mark.parametrize('labels', [[0, 1, 2, 0, 1, 1], [[0], [1, 2], [2], [], [1], [2]]])
def test_changed_labels_are_an_error(tmp_path, kind, labels):
  changed = [[0] if isinstance(labels[0], list) else 0, *labels[1:-1], labels[0]]
  before, now = (
    describe_data(open_source(write_rows(tmp_path / name / kind, kind, several), 'train'))
    for name, several in [('old', labels), ('new', changed)]
  )
  recorded = json.loads(json.dumps(before))
  check_data(recorded, before, 'mine', 'DIR')
  with pytest.raises(InputError) as e:
    check_data(recorded, now, 'mine', 'DIR')
  assert str(e.value) == START.format('mine', 'DIR') + 'their labels have changed' + END
  del recorded['labels_digest']  # as an earlier version wrote it
  check_data(recorded, now, 'mine', 'DIR')


def test_labels_that_need_the_image_are_not_read(shapes):
  assert describe_data(open_source('shapes', 'train', shapes[0]))['labels_digest'] is None


@pytest.mark.parametrize('name', ['deep/9.png', '9.bmp'])
def test_an_earlier_version_left_images_out(photos, name):
  recorded = {'class_names': ['cat', 'dog']}  # by a version that did not count images
  now = describe_data(open_source(str(photos), 'train'))
  check_data(recorded, now, 'photos', 'DIR')
  (photos / 'train' / 'dog' / 'deep').mkdir()
  cv2.imwrite(str(photos / 'train' / 'dog' / name), np.zeros((8, 8, 3), np.uint8))
  changed = describe_data(without(open_source(str(photos), 'train[:50%]'), np.array([0])))
  with pytest.raises(InputError) as e:
    check_data(recorded, changed, 'photos', 'DIR')
  assert str(e.value) == (
    START.format('photos', 'DIR')
    + 'this version of vit_jax also takes 1 image that the earlier one left out, in subfolders of '
    'the classes or with other extensions than .jpg, .jpeg, .png and .webp' + END
  )
  check_data(changed, changed, 'photos', 'DIR')


def test_a_real_run(tmp_path, photos, monkeypatch):
  """A moved dataset is a note. A renamed class and another optimizer are errors."""
  workdir = tmp_path / 'run'
  with monkeypatch.context() as patch:
    patch.chdir(tmp_path)
    patch.setattr(train_lib, 'Stopper', lambda: StopAt(1))
    with pytest.raises(Interrupted):
      train_lib.train(config('./photos'), workdir)
    assert json.loads((workdir / 'config.json').read_text())['dataset'] == str(photos)
    assert keep_recorded(config('./photos'), workdir, set()) == []
  moved = photos.rename(tmp_path / 'moved')
  c = config(moved)
  assert keep_recorded(c, workdir, set()) == [] and c.dataset == str(moved)
  assert message(config(moved, optimizer='sgd'), workdir) == (
    f"config.optimizer is 'sgd', but the run in {workdir} was started with 'adam'. Set "
    '--config.optimizer=adam, or choose another --workdir.'
  )
  interrupted(monkeypatch, 1, c, workdir)
  note = f"config.dataset was '{photos}' and is now '{moved}'."
  assert note in (workdir / 'log.txt').read_text()
  rename(moved, 'cat', 'kitten')
  assert message(c, workdir) == (
    START.format(moved, workdir) + "class 'cat' is missing, and class 'kitten' is new" + END
  )
  monkeypatch.setattr(train_lib, 'Stopper', lambda: StopAt(1))
  with pytest.raises(Interrupted):
    train_lib.train(c, workdir, resume_anyway=True)
  assert (
    'class_names": ["dog", "kitten"]' in (workdir / 'checkpoints/3/meta/metadata').read_text()
  )  # so that the next start needs no flag


@pytest.mark.parametrize('other', ['wds:{}/tars', '{}/labels.csv', 'hf:{}/photos', 'cifar10'])
def test_another_kind_of_data_is_not_a_moved_dataset(tmp_path, photos, other):
  (tmp_path / 'checkpoints' / '1').mkdir(parents=True)
  (tmp_path / 'config.json').write_text(json.dumps(dict(config(photos).items())))
  other = other.format(tmp_path)
  c = config(other)
  assert keep_recorded(c, tmp_path, set()) == [
    f'config.dataset: keeping {str(photos)!r} from the run being resumed. The config file now says '
    f'{other!r}. Pass --config.dataset=... to change it.'
  ]
  assert c.dataset == str(photos)


def test_the_order_of_classes_is_checked():
  now = {'class_names': ['a', 'b', 'c'], 'num_images': 3, 'images_digest': 'x'}
  with pytest.raises(InputError) as e:
    check_data({'class_names': ['a', 'c', 'b']}, now, 'mine', 'DIR')
  assert str(e.value) == (
    START.format('mine', 'DIR')
    + "the classes are in another order, and class 1 is 'b' instead of 'c'"
    + END
  )
  check_data({}, now, 'mine', 'DIR')  # recorded by an earlier version
  check_data({'class_names': None}, now, 'mine', 'DIR')


@pytest.mark.parametrize(
  'field, value, then, insist',
  [
    ('activation', 'gelu', 'gelu_tanh', True),
    ('norm_eps', 1e-5, 1e-6, True),
    ('head', 'gap', 'token', True),
    ('pos_embedding', 'none', 'learned', True),
    ('image_size', 32, 16, True),
    ('optimizer', 'sgd', 'adam', False),
    ('average', 0.9, None, False),
    ('trained_blocks', 0, None, False),
    ('pretext', 'masked_patches', None, False),
  ],
)
def test_a_changed_model_or_optimizer_names_the_field(tmp_path, field, value, then, insist):
  before = config('digits')
  (tmp_path / 'config.json').write_text(json.dumps(dict(before.items())))
  c = config('digits', **{field: value})
  with pytest.raises(InputError) as e:
    check_fields(c, tmp_path)
  assert str(e.value) == (
    f'config.{field} is {value!r}, but the run in {tmp_path} was started with {then!r}. '
    + (f'Leave out --config.{field}' if then is None else f'Set --config.{field}={then}')
    + ', or choose another --workdir.'
    + ' To resume anyway, pass --resume_anyway.' * insist
  )
  if insist:
    check_fields(c, tmp_path, resume_anyway=True)


def test_what_may_change_is_no_error(tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(dict(config('digits', average=0.9).items())))
  free = dict(dropout=0.3, dtype='bfloat16', scan=True, remat='full', lr=1.0, average=0.99)
  free |= dict(attention_implementation='by_head')
  check_fields(config('digits', **free), tmp_path)


def test_another_starting_point_is_noted(tmp_path, messages):
  (tmp_path / 'config.json').write_text(json.dumps(dict(config('digits', init_from='a').items())))
  check_fields(config('digits', init_from='b', new_head=True), tmp_path)
  assert messages == [
    'config.init_from has no effect: the run goes on from its checkpoint.',
    'config.new_head has no effect: the run goes on from its checkpoint.',
  ]


def test_an_empty_config_json_does_not_stop_a_run(tmp_path):
  (tmp_path / 'config.json').write_text('')
  check_fields(config('digits', activation='gelu'), tmp_path)
