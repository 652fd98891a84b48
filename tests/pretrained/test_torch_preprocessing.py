import json

import pytest

from vit_jax.pretrained.config_json import read_config, read_preprocessor
from vit_jax.pretrained.metadata import EMPTY, Metadata
from vit_jax.pretrained.torch_preprocessing import (
  from_hf,
  from_timm,
  own_record,
  read_own,
  to_hf,
  to_timm,
)


def images(metadata):
  return metadata.preset, metadata.resize_size, metadata.eval_filter


@pytest.mark.parametrize(
  'config, size, expected',
  [
    (dict(crop_pct=0.9, interpolation='bicubic'), 224, ('inception', 248, 'bicubic')),
    (dict(crop_pct=0.875, interpolation='bilinear'), 224, ('inception', 256, 'bilinear_antialias')),
    (dict(crop_pct=1.0, interpolation='bicubic'), 384, ('inception', 384, 'bicubic')),
    (dict(crop_pct=0.95, interpolation='bicubic'), 224, ('inception', 235, 'bicubic')),
    (dict(crop_pct=0.9), 224, ('inception', 248, 'bicubic')),  # timm's own defaults
    (dict(interpolation='bilinear'), 224, ('inception', 256, 'bilinear_antialias')),
    (
      dict(crop_pct=1.0, crop_mode='squash', interpolation='bicubic'),
      224,
      ('bit', None, 'bicubic'),
    ),
    (dict(crop_pct=0.9, crop_mode='squash'), 224, ('squash', 248, 'bicubic')),
    (dict(mean=[0, 0, 0]), 224, (None, None, None)),
    # What earlier versions wrote, whatever the model was.
    (dict(crop_pct=0.9, interpolation='bilinear', license='other'), 224, (None, None, None)),
  ],
)
def test_timm(config, size, expected):
  assert images(from_timm(config, (size, size))) == expected


@pytest.mark.parametrize(
  'config, expected, size',
  [
    (  # google/vit-base-patch16-224
      dict(image_processor_type='ViTImageProcessor', resample=2, size=dict(height=224, width=224)),
      ('bit', None, 'bilinear_antialias'),
      224,
    ),
    (
      dict(feature_extractor_type='ViTFeatureExtractor', resample=2, size=224),
      ('bit', None, 'bilinear_antialias'),
      224,
    ),
    (  # openai/clip-vit-base-patch16, in the old and the new words
      dict(feature_extractor_type='CLIPFeatureExtractor', resample=3, size=224, crop_size=224),
      ('inception', 224, 'bicubic'),
      224,
    ),
    (
      dict(
        image_processor_type='CLIPImageProcessor',
        resample=3,
        size=dict(shortest_edge=224),
        do_center_crop=True,
        crop_size=dict(height=224, width=224),
      ),
      ('inception', 224, 'bicubic'),
      224,
    ),
    (  # facebook/dinov2-base
      dict(
        image_processor_type='BitImageProcessor',
        resample=3,
        size=dict(shortest_edge=256),
        crop_size=dict(height=224, width=224),
      ),
      ('inception', 256, 'bicubic'),
      224,
    ),
    (  # facebook/deit-base-patch16-224
      dict(
        feature_extractor_type='DeiTFeatureExtractor',
        resample=3,
        size=256,
        do_center_crop=True,
        crop_size=224,
      ),
      ('squash', 256, 'bicubic'),
      224,
    ),
    (
      dict(resample=3, size=384, do_center_crop=False, crop_size=224),
      ('bit', None, 'bicubic'),
      384,
    ),
    (dict(do_resize=False, size=224), (None, None, None), None),
    (dict(image_mean=[0.5] * 3), (None, None, None), None),
  ],
)
def test_hugging_face(config, expected, size):
  metadata = from_hf(config)
  assert images(metadata) == expected
  assert metadata.image_size == (size and (size, size))


def test_a_filter_or_crop_that_is_not_there_is_said(caplog):
  assert from_timm(dict(interpolation='lanczos', crop_pct=1.0), (8, 8)).eval_filter is None
  assert from_timm(dict(crop_mode='border', crop_pct=0.9), (8, 8)).preset == 'bit'
  assert from_hf(dict(size=8, resample=1)).eval_filter is None
  assert caplog.messages == [
    "The filter 'lanczos' is not supported, so images are resized with another.",
    "crop_mode='border' of timm is not supported, so images are resized to squares.",
    'The filter 1 is not supported, so images are resized with another.',
  ]


@pytest.mark.parametrize('size', [32, 224, 299, 384])
@pytest.mark.parametrize('ratio', [1, 1.01, 8 / 7, 1 / 0.9, 1.5])
@pytest.mark.parametrize('preset', ['bit', 'inception', 'squash'])
@pytest.mark.parametrize('eval_filter', ['bicubic', 'bilinear_antialias'])
def test_their_words_say_the_same(size, ratio, preset, eval_filter):
  resize_size = None if preset == 'bit' else round(size * ratio)
  metadata = Metadata(preset=preset, resize_size=resize_size, eval_filter=eval_filter)
  as_bit = preset == 'squash' and resize_size == size
  expected = ('bit', None, eval_filter) if as_bit else (preset, resize_size, eval_filter)
  assert images(from_timm(to_timm(metadata, (size, size)), (size, size))) == expected
  assert images(from_hf(to_hf(metadata, (size, size)))) == expected


def test_our_words_win_and_say_everything():
  metadata = Metadata(
    preset='inception',
    resize_size=40,
    eval_filter='area',
    loss='sigmoid',
    image_mean=(0.1, 0.2, 0.3),
    image_std=(1.0, 1.0, 1.0),
  )
  own = json.loads(json.dumps({'vit_jax': own_record(metadata)}))
  assert read_own(own) == metadata._replace(fast_dct=False)
  assert read_own({}) == EMPTY
  text = json.dumps({'image_size': 32, **own})
  other = Metadata(preset='bit', eval_filter='bicubic', image_size=(32, 32))
  assert read_config(text, 'x', other) == metadata._replace(fast_dct=False, image_size=(32, 32))
  assert read_preprocessor(json.dumps({'size': 32, 'resample': 3, **own}), 'x').preset == (
    'inception'
  )


def test_a_preprocessor_of_another_size_than_the_model():
  """DINOv2 has positions for 518 pixels, but its preprocessor crops 224 of 256."""
  preprocessor = from_hf(dict(size=dict(shortest_edge=256), crop_size=224, resample=3))
  metadata = read_config('{"image_size": 518}', 'x', preprocessor)
  assert images(metadata) == ('inception', 592, 'bicubic') and metadata.image_size == (518, 518)
  assert read_config('{}', 'x', preprocessor).image_size is None  # the arrays show it


def test_pixels_that_are_not_normalized():
  metadata = read_preprocessor('{"do_normalize": false, "image_mean": [0.5, 0.5, 0.5]}', 'x')
  assert metadata.custom_normalization == ((0.0,) * 3, (1.0,) * 3)
