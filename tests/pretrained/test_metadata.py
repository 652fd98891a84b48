from vit_jax.pretrained.metadata import EMPTY, PUBLISHED, Metadata, lost_in_npz


def test_what_another_records_replaces_the_rest_stays():
  metadata = Metadata(num_heads=4, activation='gelu', model='ViT-B/16')
  assert metadata.updated(EMPTY) == metadata
  assert metadata.updated(Metadata(activation='gelu_tanh', norm_eps=1e-5)) == Metadata(
    num_heads=4, activation='gelu_tanh', norm_eps=1e-5, model='ViT-B/16'
  )


def test_properties_that_an_npz_file_does_not_keep():
  assert lost_in_npz(EMPTY) == lost_in_npz(PUBLISHED) == []
  assert lost_in_npz(Metadata(activation='gelu', norm_eps=1e-6, num_heads=3)) == [
    "activation='gelu'"
  ]
  assert lost_in_npz(Metadata(norm_eps=1e-5)) == ['norm_eps=1e-05']


def test_only_another_mean_or_std_than_ours_is_a_custom_normalization():
  half, mean = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
  assert Metadata(image_mean=half, image_std=half).custom_normalization is None
  assert EMPTY.custom_normalization is None
  assert Metadata(image_mean=mean, image_std=half).custom_normalization == (mean, half)


def test_another_image_size():
  metadata = Metadata(preset='inception', resize_size=256, image_size=(224, 224))
  assert metadata.for_image_size((448, 448)) == metadata._replace(
    resize_size=512, image_size=(448, 448)
  )
  wide = metadata.for_image_size((224, 448))  # only squares are cropped
  assert (wide.preset, wide.resize_size, wide.image_size) == ('bit', None, (224, 448))
  unknown = Metadata(preset='inception', resize_size=256).for_image_size((384, 384))
  assert unknown.resize_size is None


def test_what_npz_loses():
  assert lost_in_npz(Metadata(preset='bit', resize_size=40, loss='softmax')) == []
  assert lost_in_npz(Metadata(preset='inception', resize_size=40, loss='sigmoid')) == [
    "preset='inception'",
    "loss='sigmoid'",
    'resize_size=40',
  ]
  assert lost_in_npz(Metadata(norm_eps=1e-5, class_names=['a'])) == [
    'norm_eps=1e-05',
    'the class names',
  ]
