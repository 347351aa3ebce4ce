"""Self-Questioning Language Models in JAX (Chen et al., 2025).

The names in `__all__` are public, see docs/python.md. They are imported when
they are used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from sqlm_jax import configs, runs
  from sqlm_jax.api import (
    PlayedStep,
    compare,
    evaluate,
    export,
    keep_compiled,
    load,
    pilot,
    propose,
    sample,
    train,
  )

__all__ = [
  'PlayedStep',
  'compare',
  'configs',
  'evaluate',
  'export',
  'keep_compiled',
  'load',
  'pilot',
  'propose',
  'runs',
  'sample',
  'train',
]

_MODULES = ('configs', 'runs')

# Silences the warning of transformers that torch, which is unused, is missing.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')


def __getattr__(name: str) -> Any:
  """Imports a public name on first use."""
  if name in _MODULES:
    return importlib.import_module(f'sqlm_jax.{name}')
  if name in __all__:
    return getattr(importlib.import_module('sqlm_jax.api'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
