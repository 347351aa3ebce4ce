"""Refuses a learning rate that is too high for the weights of a model."""

import math
import statistics

import jax
import jax.numpy as jnp

from sqlm_jax.config import training_schema
from sqlm_jax.engine import optimizer
from sqlm_jax.models import policy as policy_lib

# Adam moves a weight by about the learning rate. This is the largest move that
# is accepted, as a fraction of the weights' root mean square. The quickstart's
# rate of 1e-5 is 5e-5 of SmolLM2's weights, which learns, and 2.5e-4 of Gemma 3
# 270M's, which forgets within two steps.
MAX_RELATIVE_RATE = 1.5e-4


def check(config: training_schema.Optimizer, params: policy_lib.Params) -> None:
  """Checks the learning rate of a run that does not bound its updates.

  Args:
    config: Settings of the optimizer.
    params: Weights of the model, before training.

  Raises:
    ValueError: If an update would move the weights too far.
  """
  size = weight_size(params)
  highest = MAX_RELATIVE_RATE * size
  if config.max_update_kl or not size or config.learning_rate <= highest:
    return
  raise ValueError(
    f'optimizer.learning_rate={config.learning_rate:g}: expected at most '
    f'{_round_down(highest):g} for this model, whose weights have a root mean '
    f'square of {size:.2g}. A higher rate makes it forget within a few steps. '
    f'Use --config.optimizer.learning_rate={_round_down(highest / 5):g}, '
    'or bound the updates with --config.optimizer.max_update_kl=0.02 '
    '--config.vote.min_agreement=0.5; see docs/your_model.md'
  )


def weight_size(params: policy_lib.Params) -> float:
  """Returns the median over all matrices of their root mean square."""
  is_matrix = optimizer.matrices(params)
  sizes = jax.tree.map(
    lambda x, used: _root_mean_square(x) if used else None, params, is_matrix
  )
  return statistics.median(map(float, jax.tree.leaves(sizes)))


@jax.jit
def _root_mean_square(x: jax.Array) -> jax.Array:
  return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))


def _round_down(x: float) -> float:
  """Rounds down to one significant digit."""
  unit = 10.0 ** math.floor(math.log10(x))
  return math.floor(x / unit) * unit
