"""Every config key, with the paper's settings where it has them.

docs/config.md explains the keys, which `sqlm_jax/config/schema.py` declares.
This config cannot be run as it is, because it has no task. For a config that
can be run, see `configs/quickstart.py`.
"""

from ml_collections import config_dict

from sqlm_jax.config import schema


def get_config() -> config_dict.ConfigDict:
  """Returns the base of all other configs, with its keys locked."""
  return config_dict.ConfigDict(schema.to_dict(schema.Config())).lock()
