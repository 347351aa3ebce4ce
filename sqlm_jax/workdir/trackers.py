"""Sends the metrics of a run to Weights & Biases or to trackio.

The services receive metrics, and the config keys whose values are numbers,
booleans or choices. They do not receive prompts, questions or answers.
"""

import importlib
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from absl import logging
from etils import epath

from sqlm_jax.workdir import storage, tensorboard

Settings = Mapping[str, float | str]


class MetricsWriter(Protocol):
  """Writes the metrics of a run, for example to a service."""

  def add(self, step: int, values: Mapping[str, float]) -> None:
    """Writes metrics of a step.

    Args:
      step: Self-play step, or number of steps before an evaluation.
      values: Metrics by name, which may not be finite.
    """

  def rewind(self, step: int) -> None:
    """Discards the metrics of step `step` and later, if that is possible."""

  def close(self) -> None:
    """Writes what is still in memory, and closes the writer."""


class Tracker:
  """Passes metrics to the library of a service.

  A service that fails during a run loses metrics and does not stop the run.
  """

  def __init__(
    self,
    name: str,
    log: Callable[[int, dict[str, float]], None],
    finish: Callable[[], None],
  ):
    """Initializes a tracker.

    Args:
      name: Name of the library, for warnings.
      log: Sends the metrics of a step.
      finish: Waits until everything has been sent.
    """
    self._name = name
    self._log = log
    self._finish = finish
    self._has_failed = False

  def add(self, step: int, values: Mapping[str, float]) -> None:
    finite = {name: x for name, x in values.items() if math.isfinite(x)}
    self._try(lambda: self._log(step, finite))

  def rewind(self, step: int) -> None:
    """Keeps all points: a step that is repeated has the same metrics."""

  def close(self) -> None:
    self._try(self._finish)

  def _try(self, call: Callable[[], None]) -> None:
    try:
      call()
    except Exception as error:  # the run must not end because of a service
      if not self._has_failed:
        self._has_failed = True
        logging.warning('%s: metrics are lost: %s', self._name, error)


def check(names: tuple[str, ...]) -> None:
  """Checks that the libraries of `tracking.writers` are installed.

  Raises:
    ValueError: If a library is not installed.
  """
  for name in names:
    if name in _OPEN:
      _find_init(name)


def open_writers(
  names: tuple[str, ...],
  workdir: epath.Path,
  *,
  project: str,
  settings: Settings,
) -> list[MetricsWriter]:
  """Opens the writers of a run, or opens them again when it is resumed.

  Args:
    names: Value of `tracking.writers`.
    workdir: Directory of the run.
    project: Name under which a service groups runs.
    settings: Config keys to send.

  Raises:
    ValueError: If a library refuses the run, for example because there is no
      API key.
  """
  writers: list[MetricsWriter] = []
  for name in names:
    if name == 'tensorboard':
      writers.append(tensorboard.Curves(workdir))
      continue
    identifier = _identifier(workdir)
    try:
      tracker = _OPEN[name](workdir, identifier, project, settings)
    except Exception as error:  # each library has exceptions of its own
      raise ValueError(f'tracking.writers={name!r}: {error}') from error
    writers.append(tracker)
  return writers


def _open_wandb(
  workdir: epath.Path, identifier: str, project: str, settings: Settings
) -> Tracker:
  run = _find_init('wandb')(
    project=project,
    name=f'{workdir.name}-{identifier}',
    id=identifier,
    resume='allow',
    config=dict(settings),
    dir=None if storage.is_remote(workdir) else str(workdir),
    # Neither copies the terminal, nor records the command line, which may
    # contain prompts.
    settings={'console': 'off', 'x_disable_meta': True},
  )
  # By default, W&B ignores a step that is not after all earlier ones, such as
  # the steps that a resumed run repeats.
  run.define_metric('*', step_metric='step')
  return Tracker(
    'wandb', lambda step, values: run.log(values | {'step': step}), run.finish
  )


def _open_trackio(
  workdir: epath.Path, identifier: str, project: str, settings: Settings
) -> Tracker:
  run = _find_init('trackio')(
    project=project,
    name=f'{workdir.name}-{identifier}',
    resume='allow',
    config=dict(settings),
    embed=False,  # shows no page in a notebook
  )
  return Tracker(
    'trackio', lambda step, values: run.log(values, step=step), run.finish
  )


_OPEN: dict[str, Callable[[epath.Path, str, str, Settings], Tracker]] = {
  'wandb': _open_wandb,
  'trackio': _open_trackio,
}


def _find_init(name: str) -> Callable[..., Any]:
  try:
    return importlib.import_module(name).init
  except (ImportError, AttributeError) as error:
    raise ValueError(
      f'tracking.writers={name!r}: expected the package {name}, which is not '
      f"installed: pip install -e '.[{name}]' ({error})"
    ) from None


def _identifier(workdir: epath.Path) -> str:
  """Returns the random name of the run at services, the same after a restart.

  Directories of different runs can have the same name.
  """
  path = workdir / 'tracking_id'
  if not path.exists():
    workdir.mkdir(parents=True, exist_ok=True)
    storage.write_text(path, secrets.token_hex(4))
  return path.read_text(encoding='utf-8').strip()
