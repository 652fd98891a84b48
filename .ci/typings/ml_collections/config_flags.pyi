from typing import Any

from absl import flags

def DEFINE_config_file(
  name: str,
  default: str | None = ...,
  help_string: str = ...,
  flag_values: flags.FlagValues = ...,
  lock_config: bool = ...,
  **kwargs: Any,
) -> flags.FlagHolder[Any]: ...
def get_override_values(config_flag_holder: Any) -> dict[str, Any]: ...
