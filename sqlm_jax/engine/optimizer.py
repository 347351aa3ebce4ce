"""The optimizer: optax, put together from a config."""

import jax
import optax


def make_optimizer(
  *,
  learning_rate: float,
  warmup_steps: int = 0,
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 0.0,
  clip_norm: float = 1.0,
) -> optax.GradientTransformation:
  """AdamW (Loshchilov and Hutter, 2019) behind a global-norm clip.

  Args:
    learning_rate: constant after the warm-up.
    warmup_steps: optimizer steps of linear warm-up from 0.
    b1: decay of the first moment.
    b2: decay of the second moment.
    weight_decay: decoupled, times the learning rate; matrices only.
    clip_norm: largest global norm of a gradient; 0 does not clip.
  """
  schedule = learning_rate
  if warmup_steps:
    schedule = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  adamw = optax.adamw(
    schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=matrices
  )
  if not clip_norm:
    return adamw
  return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)


def matrices(params):
  """True for every parameter but scales of norms and biases."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key not in ('scale', 'bias'), params
  )
