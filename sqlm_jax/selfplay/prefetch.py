"""Samples the next step while the answers of the current step are graded."""

from collections.abc import Callable

from sqlm_jax.game import repetition
from sqlm_jax.selfplay import proposing, solving, step_metrics, step_types


class Prefetcher:
  """Holds the first round of the next step, sampled before this step learns.

  Devices then do not wait for slow tests. The weights that sample the round
  lack the update of the current step.
  """

  def __init__(self, game: step_types.GameSetup):
    """Initializes a prefetcher that holds no round.

    Args:
      game: the constant parts of self-play.
    """
    self._game = game
    self._held: step_types.SampledRound | None = None

  def first_round(
    self,
    step: int,
    states: step_types.States,
    memory: repetition.Memory,
    *,
    look_ahead: bool,
    on_stage: Callable[[str], None] = lambda stage: None,
  ) -> step_types.SampledRound | None:
    """Returns the first round of a step, for `self_play_step`.

    Args:
      step: self-play step, counted from 0.
      states: the `TrainState` of each policy.
      memory: questions of earlier steps. The questions of the next step are
        compared with these, and not with those of this step.
      look_ahead: True to also sample the first round of the next step. The
        answers of this step are graded in a thread at the same time.
      on_stage: called with the name of each stage when it begins.

    Returns:
      The round, or None if the step has to sample it.
    """
    current, self._held = self._held, None
    if not look_ahead:
      return current
    if current is None:
      current = self._sample(step, states, memory, on_stage)
    try:
      self._held = self._sample(step + 1, states, memory, on_stage)
    except BaseException:
      current.grader.cancel()
      raise
    return current

  def cancel(self) -> None:
    """Drops the round that is held, and stops grading its answers."""
    if self._held is not None:
      self._held.grader.cancel()
      self._held = None

  def _sample(
    self,
    step: int,
    states: step_types.States,
    memory: repetition.Memory,
    on_stage: Callable[[str], None],
  ) -> step_types.SampledRound:
    clock = step_metrics.StageClock(on_stage)
    with clock('propose'):
      proposed = proposing.propose(step, 0, states, memory, self._game)
    with clock('solve'):
      sampled = solving.solve(step, 0, proposed, states, self._game)
    return sampled._replace(seconds=clock.seconds)
