"""The type of a model's parameters."""

from typing import Any

# A nested dict whose leaves are arrays, keyed by the names of the published checkpoints, e.g.
# params['Transformer']['encoderblock_0']['MlpBlock_0']['Dense_0']['kernel'].
Params = Any
