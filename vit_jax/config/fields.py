"""Every config field with its default.

A file in configs/ starts from `default_config()` and sets what its experiment changes. Any field
can also be set on the command line, such as `--config.batch_size=256`. It is an error to set a
field that is not listed here, or to give a value of the wrong type.

None means "not set". It never means zero: `--config.mixup=0` turns mixup off, whatever
`config.augment` says. In counters of steps or bad images, 0 means "never" or "none".
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

Config = ConfigDict | Mapping[str, Any]

# AugReg's levels (arXiv 2106.10270, section 3.3): p of mixup, and RandAugment's number of
# operations and their magnitude.
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
  """Return a config with all fields at their defaults.

  The defaults train ViT-B/16 on ImageNet, without dropout and without a hidden layer in the head.
  """
  c = ConfigDict()

  # ---- Model ----

  # Name of the model for create_model, such as 'ViT-B/16', 'R50+ViT-B/16' or 'BiT-R50x1'.
  c.model = 'ViT-B/16'
  # Side of the square input images, in pixels.
  c.image_size = 224
  # Number of blocks, width of a token, width of an MLP's hidden layer, and number of attention
  # heads. None: the model's name decides.
  c.num_layers = placeholder(int)
  c.hidden_dim = placeholder(int)
  c.mlp_dim = placeholder(int)
  c.num_heads = placeholder(int)
  # Stages of a hybrid's ResNet, 3 or 4. None: 4 if its stride is a multiple of 32, else 3.
  c.resnet_stages = placeholder(int)
  # The head reads the class token ('token'), the mean over the patches ('gap'), or attention
  # pooling over the patches ('map').
  c.head = 'token'
  # Width of the hidden tanh layer in the head. None: the head has no hidden layer.
  c.representation_size = placeholder(int)
  # Initial bias of the head. -10 goes with the sigmoid loss.
  c.head_bias_init = 0.0
  # Dropout rate after the position embedding and after every dense layer except q, k and v.
  c.dropout = 0.0
  # Probability of skipping a branch of the last block. It grows linearly from 0 in the first block.
  c.stochastic_depth = 0.0
  # Position embedding: 'learned', 'learned2d', 'relative', 'sincos2d' or 'none' (paper D.4).
  c.pos_embedding = 'learned'
  # Where the position embedding is added: once before the blocks ('stem'), in every block with
  # parameters of its own ('every'), or in every block with the same parameters ('shared').
  c.pos_embedding_at = 'stem'
  # Attention over all patches ('full'), or along rows and then along columns ('axial', paper D.6).
  c.attention = 'full'
  # Activation of the MLPs: 'gelu_tanh', 'gelu' (exact, as in PyTorch) or 'quick_gelu' (CLIP).
  c.activation = 'gelu_tanh'
  # Epsilon of every LayerNorm.
  c.norm_eps = 1e-6
  # Apply a LayerNorm before the first block.
  c.pre_norm = False
  # Give the patch embedding a bias.
  c.patch_bias = True
  # Give the query, key and value projections a bias.
  c.qkv_bias = True
  # Initial value of LayerScale. None: the blocks have no LayerScale.
  c.layer_scale = placeholder(float)
  # Number of register tokens beside the patches.
  c.registers = 0

  # ---- Starting point and fine-tuning ----

  # Checkpoint to start from: anything that load_params reads. None: start from random parameters.
  c.init_from = placeholder(str)
  # Start with a head of zeros, even if the checkpoint's head has as many classes.
  c.new_head = False
  # Number of last blocks to train, with the head. 0: only the head. None: train everything.
  c.trained_blocks = placeholder(int)

  # ---- Data ----

  # A TFDS name, a folder with {train,val}/<class>/<image>, 'wds:' and a pattern of WebDataset
  # shards, such as 'wds:DIR/imagenet1k-{train,validation}-*.tar', 'hf:' and the name or path of
  # a Hugging Face dataset, such as 'hf:timm/mini-imagenet', or the path of a .csv file of labels.
  c.dataset = 'imagenet2012'
  # Directory where TFDS datasets are prepared. It may be on gs://, s3:// or https://. None: the
  # default directory of TFDS.
  c.data_dir = placeholder(str)
  # Split to train on, in TFDS notation, such as 'train[:98%]'. None: the dataset's own.
  c.train_split = placeholder(str)
  # Split to evaluate on. None: the dataset's own. 'none': do not evaluate.
  c.eval_split = placeholder(str)
  # File of ids, written by vit_jax.tools.dedup, of training images to leave out. None: use all.
  c.exclude_ids = placeholder(str)
  # Draw the images of rare classes more often: 1 draws every class equally often, .5 in proportion
  # to the square root of its number of images. None or 0: every image is drawn equally often. Every
  # start reads all labels. In TFDS datasets, they are in the records, so all of these are read.
  c.class_balance = placeholder(float)
  # Train even if some class folders of the training split hold no images.
  c.allow_empty_classes = False
  # Width of the head. None: the number of classes of the dataset.
  c.num_classes = placeholder(int)
  # 'inception' crops a random area of the image, for pretraining. 'bit' resizes and then crops.
  c.preset = 'inception'
  # Side to which images are resized before the crop, in pixels. None: the preset's ratio to
  # image_size.
  c.resize_size = placeholder(int)
  # Filter with which evaluation resizes images: 'bilinear' (no antialiasing), 'area', 'bicubic' or
  # 'bilinear_antialias'. None: as in the published code, 'area' for 'inception' and 'bilinear' for
  # 'bit'.
  c.eval_filter = placeholder(str)
  # Decode JPEGs with the fast, less accurate DCT, as TensorFlow does by default. The pixels differ
  # by 1 of 255 levels on average.
  c.fast_dct = False
  # Number of damaged images to skip and count. One more stops the run.
  c.max_bad_records = 0

  # ---- Augmentation ----

  # Flip images horizontally at random: 'yes', 'no', or 'auto' (if the dataset allows it).
  c.flip = 'auto'
  # AugReg's level of RandAugment and mixup: 'none', 'light1', ..., 'strong2'.
  c.augment = 'none'
  # RandAugment's number of operations per image and their magnitude, up to 30. (0, 0) turns it
  # off. None: config.augment decides.
  c.rand_augment = placeholder(tuple)
  # Names of the operations that RandAugment draws from. None: all 16.
  c.augment_ops = placeholder(tuple)
  # p of Beta(p, p), from which mixup draws the weights of two images and labels. 0 turns mixup
  # off. None: config.augment decides.
  c.mixup = placeholder(float)

  # ---- Loss ----

  # Cross-entropy: 'softmax', or 'sigmoid', which treats each class separately.
  c.loss = 'softmax'
  # Weight of the uniform distribution in the target.
  c.label_smoothing = 0.0
  # 'masked_patches' predicts masked patches instead of labels (paper B.1.2). None: labels.
  c.pretext = placeholder(str)
  # Target of masked patch prediction: 'mean_color' of a patch, 'small_patch' (4 x 4 cells) or
  # 'patch' (all pixels).
  c.mpp_target = 'mean_color'
  # Fraction of the patches that are corrupted.
  c.mpp_rate = 0.5

  # ---- Optimization ----

  # Images per step, over all devices.
  c.batch_size = 4096
  # 'adam', or 'sgd' for fine-tuning.
  c.optimizer = 'adam'
  # Peak learning rate.
  c.lr = 3e-3
  # Steps of linear warmup from 0. None: a fifth of the run, but at most 500.
  c.warmup_steps = placeholder(int)  # A placeholder, so that None is allowed.
  c.warmup_steps = 10_000
  # Decay after the warmup: 'cosine' to 0, 'linear' to linear_end, or 'steps', which divides the
  # learning rate by 10 at each of lr_drops.
  c.schedule = 'cosine'
  # Final learning rate of the 'linear' schedule.
  c.linear_end = 1e-5
  # Steps at which the 'steps' schedule drops.
  c.lr_drops = ()
  # Decay rates of Adam's first and second moment.
  c.beta1 = 0.9
  c.beta2 = 0.999
  # Momentum of SGD.
  c.momentum = 0.9
  # Type of Adam's first moment or SGD's momentum. 'bfloat16' saves memory.
  c.moment_dtype = 'float32'
  # Decoupled weight decay, multiplied by the learning rate.
  c.weight_decay = 0.3
  # Parameters that decay: 'kernels' or 'all'.
  c.decay = 'kernels'
  # Gradients are clipped to this global norm. None: no clipping.
  c.clip_norm = placeholder(float)  # recipes set None, and flags a number
  c.clip_norm = 1.0
  # Factor, such as 0.9999, of a moving average of the parameters. None: keep no average.
  c.average = placeholder(float)

  # ---- Length of training ----

  # Length of training, in epochs. It is used if total_steps is None. If both are None, a run has
  # 100 epochs, but at least 50 and at most 2,500 steps.
  c.num_epochs = placeholder(float)  # A placeholder, so that None is allowed.
  c.num_epochs = 300.0
  # Length of training, in steps. None: num_epochs decides. On the command line, num_epochs replaces
  # the total_steps of a config file.
  c.total_steps = placeholder(int)

  # ---- Devices and memory ----

  # 'pmap' keeps a full copy of the model and optimizer on every device. 'mesh' shards them.
  c.parallel = 'pmap'
  # Devices along (data, fsdp). The state is sharded along fsdp. 0: all remaining devices.
  c.mesh = (0, 1)
  # Number of passes into which each device splits its share of a batch.
  c.accumulate = 1
  # Compile one block and scan over all of them, which compiles several times faster.
  c.scan = False
  # 'dots' or 'full' keep fewer activations and recompute the others in the backward pass.
  c.remat = 'none'
  # How attention is computed: 'plain', 'by_head' (logits of one head at a time, recomputed in the
  # backward pass), 'cudnn' (NVIDIA's fused kernel). None: what suits the platform.
  c.attention_implementation = placeholder(str)
  # Type of the computation, 'float32' or 'bfloat16'. 'auto' is the faster one on the device where
  # the run starts, and is recorded. Parameters and optimizer state are float32.
  c.dtype = 'bfloat16'
  # Directory of compiled programs, which may be on gs://. None: the user's cache. 'none': no cache.
  c.compile_cache = placeholder(str)
  # Decoding threads per host. None: one per core, or four if the data is read over the network.
  c.num_threads = placeholder(int)
  # Decoding processes per host, instead of threads. 0: threads.
  c.num_workers = 0
  # Seconds without progress, including compilation, after which the process exits. 0: never.
  c.hang_seconds = 1800.0

  # ---- Evaluation ----

  # Steps between evaluations. 0: only after the last step.
  c.eval_every = 5_000
  # Datasets for few-shot evaluation of the representation, such as 'cifar100,dtd'. None: no
  # few-shot evaluation.
  c.fewshot = placeholder(str)
  # Steps between few-shot evaluations. 0: only after the last step.
  c.fewshot_every = 0
  # How few-shot evaluation prepares images: 'squash' resizes both sides to 8/7 of image_size before
  # the center crop, as in the published code. 'inception' resizes the short side.
  c.fewshot_preset = 'squash'
  # Numbers of images per class for few-shot evaluation.
  c.fewshot_shots = (1, 5, 10, 25)

  # ---- Checkpoints and logs ----

  # Steps between checkpoints. 0: only at the end, and when the run is stopped.
  c.save_every = 1_000
  # Number of newest checkpoints to keep.
  c.keep = 3
  # Also keep the checkpoints at multiples of this many steps, which must be a multiple of
  # save_every. 0: no others.
  c.keep_every = 0
  # Steps between lines of metrics.
  c.log_every = 50
  # Steps between pictures of filters, position embeddings and predictions. 0: no pictures.
  c.figures_every = 0
  # First and last step to trace into the workdir's profile/. None: no trace.
  c.profile_steps = placeholder(tuple)

  # ---- Randomness ----

  # Seed of initialization, order of the images, augmentation and dropout.
  c.seed = 0
  return c.lock()


# Fields that create_model takes under the same name.
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
  'attention_implementation',
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


def model_overrides(config: Config) -> dict[str, Any]:
  """Return the arguments of `create_model` besides name, number of classes and image size."""
  overrides = {field: config[field] for field in MODEL_FIELDS}
  if config['pretext']:  # a pretext task has no head for labels
    overrides['representation_size'] = None
  return overrides


def mixup(config: Config) -> float:
  """Return p of mixup's Beta(p, p): config.mixup if it is set, else that of config.augment."""
  return AUGREG[config['augment']][0] if config['mixup'] is None else config['mixup']


def rand_augment(config: Config) -> tuple[int, int]:
  """Return config.rand_augment if it is set, else the (operations, magnitude) of config.augment."""
  if config['rand_augment'] is None:
    return AUGREG[config['augment']][1]
  return tuple(config['rand_augment'])
