"""Calls functions of the user after each step of a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlm_jax.run import stop_signals


class PlayedStep(NamedTuple):
  """A step of a run, as callbacks receive it.

  Attributes:
    step: Self-play step, counted from 0.
    metrics: Metrics of the step, and of the evaluations after it.
    rows: Responses of the step with their rewards, one row for each. The keys
      are the columns of `workdir.rollouts.SCHEMA` except the step; a null may
      be left out. With several processes, each process has its own rows.
  """

  step: int
  metrics: dict[str, float]
  rows: list[dict[str, Any]]


Callback = Callable[[PlayedStep], None]


def call(
  callbacks: Sequence[Callback],
  played: PlayedStep,
  scores: Mapping[str, float],
  stop: stop_signals.Stop,
) -> None:
  """Calls the callbacks; a KeyboardInterrupt in one of them stops the run.

  Args:
    callbacks: Functions of the user.
    played: The step without the evaluations after it.
    scores: Results of these evaluations.
    stop: Stops the run.
  """
  played = played._replace(metrics=played.metrics | dict(scores))
  try:
    for callback in callbacks:
      callback(played)
  except KeyboardInterrupt:
    stop.request()
