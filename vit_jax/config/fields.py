"""Every config field with its default, and the checks that need no data.

A file in configs/ starts from `default_config()` and sets what its experiment changes. Any
field can be set on the command line, `--config.batch_size=256`; a field that is not here,
or a value of another type, is an error.
"""

from collections.abc import Mapping
import difflib
from typing import Any

from ml_collections import ConfigDict

from vit_jax.errors import InputError

# AugReg's levels (arXiv 2106.10270, 3.3): p of mixup, and RandAugment's operations and magnitude.
AUGREG = {
  'none': (0.0, (0, 0)),
  'light1': (0.0, (2, 0)),
  'light2': (0.2, (2, 10)),
  'medium1': (0.2, (2, 15)),
  'medium2': (0.5, (2, 15)),
  'strong1': (0.5, (2, 20)),
  'strong2': (0.8, (2, 20)),
}


def default_config() -> ConfigDict:
  """The fields, their meaning and defaults; ViT-B/16 on ImageNet where a recipe says nothing."""
  c = ConfigDict()

  # Model.
  c.model = 'ViT-B/16'  # name for create_model: also 'R50+ViT-B/16', 'BiT-R50x1'
  c.init_from = ''  # a checkpoint that load_params reads, to start from; '': random
  c.new_head = False  # with init_from: a head of zeros, even if the file's has as many classes
  c.image_size = 224  # pixels, a side
  c.num_layers = 0  # blocks; 0, here and in the next three: as the model's name says
  c.hidden_dim = 0  # channels of a token
  c.mlp_dim = 0  # channels between the dense layers of a block
  c.num_heads = 0  # of attention
  c.resnet_stages = 0  # of a hybrid: 3 or 4; 0: as its stride asks for
  c.head = 'token'  # 'token': the class token; 'gap': mean over the patches; 'map': attention
  c.representation_size = 0  # width of the head's hidden tanh layer; 0: none
  c.head_bias_init = 0.0  # initial bias of the head; -10 goes with sigmoid cross-entropy
  c.dropout = 0.0  # after every dense layer but q, k, v and after the position embedding
  c.stochastic_depth = 0.0  # how often the last block drops a branch; linear from 0, the first
  c.pos_embedding = 'learned'  # 'learned2d', 'relative', 'sincos2d', 'none' (paper D.4)
  c.pos_embedding_at = 'stem'  # added once; 'every': each layer its own; 'shared' by all layers
  c.attention = 'full'  # 'axial': along rows, then along columns (paper D.6)
  c.activation = 'gelu_tanh'  # 'gelu': the exact one, as in PyTorch; 'quick_gelu': OpenAI's CLIP
  c.norm_eps = 1e-6  # of LayerNorm
  c.pre_norm = False  # a LayerNorm before the first block
  c.patch_bias = True  # of the patch embedding
  c.qkv_bias = True  # of the query, key and value projections
  c.layer_scale = 0.0  # initial LayerScale; 0: none
  c.registers = 0  # register tokens beside the patches
  c.scan = False  # over the blocks: compiles one instead of all, which takes a fraction of the time
  c.remat = 'none'  # 'dots', 'full': keeps less for the backward pass and computes it again
  c.dtype = 'bfloat16'  # of the computation; parameters and optimizer state are float32

  # Data.
  c.dataset = 'imagenet2012'  # a TFDS name, or a folder with {train,val}/<class>/<image>
  c.data_dir = ''  # where TFDS data sets are prepared; '': the TFDS default
  c.train_split = ''  # a TFDS split expression, e.g. 'train[:98%]'; '': the data set's own
  c.exclude_ids = ''  # a file of vit_jax.tools.dedup: images that training leaves out
  c.eval_split = ''  # '': the data set's own; 'none': do not evaluate
  c.num_classes = 0  # width of the head; 0: as many as the data set has
  c.preset = 'inception'  # 'inception': area crop, for pretraining; 'bit': resize and crop
  c.resize_size = 0  # pixels before the crop; 0: the preset's ratio to image_size
  c.flip = 'auto'  # random horizontal flip: 'yes', 'no', 'auto': as the data set allows
  c.augment = 'none'  # AugReg's level of RandAugment and mixup: 'light1' ... 'strong2'
  c.rand_augment = (0, 0)  # operations on an image, their magnitude (to 30); 0 as augment says
  c.augment_ops = ()  # the names of RandAugment's operations to draw from; (): all 16
  c.max_bad_records = 0  # this many corrupt images are skipped and counted; one more stops
  c.num_threads = 0  # decoding threads per host; 0: as many as there are cores
  c.num_workers = 0  # decoding processes per host instead of threads; 0: threads

  # Optimisation.
  c.batch_size = 4096  # images a step, over all devices
  c.accumulate = 1  # split each device's share of a batch into this many passes
  c.num_epochs = 300.0  # length of training; used when total_steps is 0
  c.total_steps = 0  # length of training in steps; 0: from num_epochs
  c.loss = 'softmax'  # 'softmax' or 'sigmoid' cross-entropy
  c.label_smoothing = 0.0
  c.pretext = ''  # 'masked_patches': predicts those instead of labels (paper B.1.2)
  c.mpp_target = 'mean_color'  # of each patch; 'small_patch': of 4 x 4 cells; 'patch': all pixels
  c.mpp_rate = 0.5  # share of the patches that are corrupted
  c.lr = 3e-3  # peak learning rate
  c.schedule = 'cosine'  # 'cosine' to 0, 'linear' to linear_end, 'steps': a tenth at each lr_drops
  c.linear_end = 1e-5
  c.lr_drops = ()  # the steps at which it falls
  c.warmup_steps = 10_000  # linear, from 0
  c.optimizer = 'adam'  # or 'sgd', for fine-tuning
  c.beta1 = 0.9  # of Adam
  c.beta2 = 0.999  # of Adam
  c.momentum = 0.9  # of SGD
  c.moment_dtype = 'float32'  # of Adam's first moment, SGD's momentum; 'bfloat16' saves memory
  c.weight_decay = 0.3  # decoupled, scaled by the learning rate
  c.decay = 'kernels'  # which parameters decay: 'kernels' or 'all'
  c.clip_norm = 1.0  # global norm of the gradient; 0: no clipping
  c.mixup = 0.0  # p of Beta(p, p), by which images and labels are mixed in pairs; 0 as augment says
  c.trained_blocks = -1  # n: the last n blocks and the head; 0: the head alone; -1: everything
  c.average = 0.0  # factor, as .9999, of an average of the parameters over the steps; 0: none

  # The run.
  c.seed = 0  # of initialisation, order, augmentation and dropout
  c.parallel = 'pmap'  # the state on every device; 'mesh': cut over devices as config.mesh says
  c.mesh = (0, 1)  # devices along (data, fsdp: these share the state); 0: all that remain
  c.compile_cache = ''  # directory, also gs://, of compiled programs; '': of the user; or 'none'
  c.profile_steps = (0, 0)  # traces the steps first..last into the workdir's profile/
  c.hang_seconds = 1800.0  # without progress, compilation included: ends the process; 0: never
  c.log_every = 50  # steps between metric lines
  c.eval_every = 5_000  # steps between evaluations; 0: only after the last step
  c.fewshot = ''  # data sets, as 'cifar100,dtd', for few-shot evaluation of the representation
  c.fewshot_every = 0  # steps between these; 0: only after the last step
  c.fewshot_shots = (1, 5, 10, 25)  # images of each class
  c.figures_every = 0  # steps between pictures of filters, positions and predictions; 0: none
  c.save_every = 1_000  # steps between checkpoints; 0: only at the end and when stopped
  c.keep = 3  # this many of the last checkpoints stay
  c.keep_every = 0  # checkpoints at multiples of this stay too (a multiple of save_every)
  return c.lock()


# What of a config goes to create_model by the same name.
MODEL_FIELDS = (
  'num_layers',
  'hidden_dim',
  'mlp_dim',
  'num_heads',
  'resnet_stages',
  'head',
  'representation_size',
  'head_bias_init',
  'dropout',
  'stochastic_depth',
  'pos_embedding',
  'pos_embedding_at',
  'attention',
  'activation',
  'norm_eps',
  'pre_norm',
  'patch_bias',
  'qkv_bias',
  'layer_scale',
  'registers',
  'scan',
  'remat',
  'dtype',
)


def model_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a config that `create_model` takes besides name, classes and image size."""
  none_if_0 = (
    'num_layers',
    'hidden_dim',
    'mlp_dim',
    'num_heads',
    'resnet_stages',
    'representation_size',
  )
  overrides = {f: (config[f] or None) if f in none_if_0 else config[f] for f in MODEL_FIELDS}
  if config['pretext']:  # trains no head of labels
    overrides['representation_size'] = None
  return overrides


def mixup(c: ConfigDict) -> float:
  """P of mixup's Beta(p, p): the config's own, else that of its level of augmentation."""
  return c.mixup or AUGREG[c.augment][0]


def rand_augment(c: ConfigDict) -> tuple[int, int]:
  """RandAugment's operations and magnitude: the config's own, else those of its level."""
  return tuple(c.rand_augment) if c.rand_augment[0] else AUGREG[c.augment][1]


def check_config(c: ConfigDict) -> None:
  """Raises InputError for values that no data or device could make right."""
  unknown = sorted(set(c) - set(default_config()))
  if unknown:
    near = difflib.get_close_matches(unknown[0], default_config(), 1)
    raise InputError(
      f'unknown config field {unknown[0]!r}' + (f'; did you mean {near[0]!r}?' if near else '')
    )
  choices = dict(
    pretext=('', 'masked_patches'),
    loss=('softmax', 'sigmoid'),
    schedule=('cosine', 'linear', 'steps'),
    decay=('kernels', 'all'),
    parallel=('pmap', 'mesh'),
    preset=('inception', 'bit'),
    optimizer=('adam', 'sgd'),
    dtype=('float32', 'bfloat16'),
    moment_dtype=('float32', 'bfloat16'),
    flip=('yes', 'no', 'auto'),
    augment=tuple(AUGREG),
  )
  for field, values in choices.items():
    if c[field] not in values:
      raise InputError(f'config.{field}={c[field]!r} is not one of {", ".join(values)}')
  for field in ('batch_size', 'accumulate', 'image_size', 'log_every', 'keep'):
    if c[field] < 1:
      raise InputError(f'config.{field} must be at least 1, got {c[field]}')
  for field in (
    'total_steps',
    'num_epochs',
    'warmup_steps',
    'eval_every',
    'fewshot_every',
    'figures_every',
    'save_every',
    'keep_every',
    'lr',
    'weight_decay',
    'clip_norm',
    'mixup',
    'max_bad_records',
    'seed',
    'num_threads',
    'num_workers',
    'hang_seconds',
    'num_classes',
    'num_layers',
    'hidden_dim',
    'mlp_dim',
    'num_heads',
    'representation_size',
    'resize_size',
  ):
    if c[field] < 0:
      raise InputError(f'config.{field} must not be negative, got {c[field]}')
  if len(c.rand_augment) != 2:
    raise InputError(
      f'config.rand_augment={tuple(c.rand_augment)} must be two numbers: operations '
      'on an image and their magnitude'
    )
  first, last = c.profile_steps
  if last < first or first < 0:
    raise InputError(
      f'config.profile_steps={tuple(c.profile_steps)} must be the first and the '
      'last step to trace, (0, 0) for none'
    )
  if not c.total_steps and not c.num_epochs:
    raise InputError('config.total_steps and config.num_epochs are both 0; set one')
  for field in ('label_smoothing', 'average'):
    if not 0 <= c[field] < 1:
      raise InputError(f'config.{field} must be in [0, 1), got {c[field]}')
  if c.trained_blocks < -1:
    raise InputError(
      f'config.trained_blocks={c.trained_blocks} must be a number of blocks, or -1 '
      'for all parameters'
    )
  if c.keep_every and (not c.save_every or c.keep_every % c.save_every):
    raise InputError(
      f'config.keep_every={c.keep_every} must be a multiple of config.save_every={c.save_every}'
    )
