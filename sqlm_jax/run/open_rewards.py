"""Starts the processes of a user's reward functions."""

from sqlm_jax.config import schema as config_lib
from sqlm_jax.game import rewards
from sqlm_jax.grading import user_functions


def open_rewards(config: config_lib.Config) -> rewards.Functions:
  """Returns the user's reward functions of both roles, with their weights."""

  def open_role(
    role: str,
  ) -> tuple[tuple[user_functions.Function, float], ...]:
    key = f'{role}.reward_functions'
    return tuple(
      (user_functions.Function(key, name), weight)
      for name, weight in getattr(config, role).reward_functions
    )

  return rewards.Functions(open_role('solver'), open_role('proposer'))
