"""The cache of compiled programs, which later starts and calls read."""

import jax

from sqlm_jax.pretrained import catalog


def keep_compiled(directory: str | None = None) -> None:
  """Stores compiled programs of jax on disk, for all runs on this machine.

  Without it, every call that trains, evaluates or samples compiles again.

  Args:
    directory: Directory of the programs, or 'off'. By default, it is
      $JAX_COMPILATION_CACHE_DIR, or a directory in the user's cache.
  """
  if directory is None:
    # ty cannot see the options that jax adds to its config.
    chosen = jax.config.jax_compilation_cache_dir  # ty: ignore
    directory = chosen or str(catalog.cache_directory() / 'compiled')
  elif directory == 'off':
    directory = None
  jax.config.update('jax_compilation_cache_dir', directory)
  # By default, jax does not cache programs that compile in under a second, and
  # a start compiles dozens of them.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
