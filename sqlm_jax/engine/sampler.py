"""The sampler: one compiled loop that continues every prompt G times."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sqlm_jax import sharding
from sqlm_jax.engine import groups
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import sampling

STOPPED = 1  # the state of a stop table in which a response has ended


class SamplerSettings(NamedTuple):
  """What may change from call to call without a compilation."""

  temperature: jax.Array  # [G], 0 is greedy
  top_p: jax.Array  # [G]
  limit: jax.Array  # [], tokens a response may have, at most R
  stop_table: jax.Array  # [states, V], see `text.stopping`


class SampleState(NamedTuple):
  """The carry of the loop. Slot t of a response is written at step t."""

  step: jax.Array  # []
  tokens: jax.Array  # [B, R]
  logprobs: jax.Array  # [B, R]
  sampling_logprobs: jax.Array  # [B, R]
  stop_state: jax.Array  # [B]
  lengths: jax.Array  # [B]
  cache: policy_lib.KeyValues  # [L, B, R, K, H], the responses so far


def make_sampler(
  policy: policy_lib.Policy, mesh: jax.sharding.Mesh
) -> Callable[..., groups.Rollout]:
  """Builds `sample(params, prompts, keys_QG, settings, *, slots)`.

  `keys_QG` are one random key a response; token t is drawn with
  `fold_in(key, t)`. A response therefore depends on its prompt, its key and
  the settings, and not on what else is in the batch. `slots` is R, the room
  for a response; prompts, G and R decide the compiled shape, nothing else
  does.
  """

  @functools.partial(jax.jit, static_argnames='slots')
  def sample(params, prompts, keys_QG, settings, *, slots):
    num_groups, group_size = keys_QG.shape
    rows = num_groups * group_size
    keys_B = keys_QG.reshape(-1)
    temperature_B = jnp.tile(settings.temperature, num_groups)
    top_p_B = jnp.tile(settings.top_p, num_groups)

    def draw_and_write(state, logits_BV):
      """Draws token `state.step` of every row that has not stopped."""
      step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, state.step)
      uniforms_B = jax.vmap(jax.random.uniform)(step_keys_B)
      drawn = sampling.draw(
        uniforms_B, logits_BV, temperature_B=temperature_B, top_p_B=top_p_B
      )
      running_B = state.stop_state != STOPPED
      write = lambda array_BR, new_B: array_BR.at[:, state.step].set(
        jnp.where(running_B, new_B, 0)
      )
      next_state_B = settings.stop_table[state.stop_state, drawn.tokens]
      return state._replace(
        step=state.step + 1,
        tokens=write(state.tokens, drawn.tokens),
        logprobs=write(state.logprobs, drawn.logprobs),
        sampling_logprobs=write(
          state.sampling_logprobs, drawn.sampling_logprobs
        ),
        stop_state=jnp.where(running_B, next_state_B, STOPPED),
        lengths=state.lengths + running_B,
      )

    def unfinished(state):
      below_limit = state.step < jnp.minimum(settings.limit, slots)
      all_stopped = jnp.all(state.stop_state == STOPPED)
      return below_limit & ~all_stopped

    def advance(state):
      """Feeds the last token drawn, keeps its keys and values, draws anew."""
      last_B1 = jax.lax.dynamic_slice_in_dim(state.tokens, state.step - 1, 1, 1)
      written_B = jnp.full((rows,), state.step - 1)
      cache = state.cache._replace(lengths=written_B)
      hidden_B1D, new = policy.forward(
        params, last_B1, jnp.ones((rows,), jnp.int32), (*context, cache)
      )
      append = lambda old, fresh: jax.lax.dynamic_update_slice_in_dim(
        old, fresh, state.step - 1, 2
      )
      cache = cache._replace(
        keys=append(cache.keys, new.keys),
        values=append(cache.values, new.values),
      )
      logits_BV = policy.logits(params, hidden_B1D[:, 0])
      return draw_and_write(state._replace(cache=cache), logits_BV)

    params = policy.cast(params)  # not once a token
    with jax.named_scope('prefill'):
      context, last_QD = groups.read_prompts(policy, params, prompts)
      logits_QV = policy.logits(params, last_QD)
    rows_of = lambda tree, axis=0: sharding.constrain_rows(tree, mesh, axis)
    empty = lambda dtype: rows_of(jnp.zeros((rows, slots), dtype))
    cache = policy.init_cache(rows, slots)
    state = SampleState(
      step=jnp.zeros((), jnp.int32),
      tokens=empty(jnp.int32),
      logprobs=empty(jnp.float32),
      sampling_logprobs=empty(jnp.float32),
      stop_state=jnp.zeros((rows,), settings.stop_table.dtype),
      lengths=jnp.zeros((rows,), jnp.int32),
      cache=cache._replace(
        keys=rows_of(cache.keys, 1), values=rows_of(cache.values, 1)
      ),
    )
    with jax.named_scope('decode'):
      state = draw_and_write(state, jnp.repeat(logits_QV, group_size, axis=0))
      state = jax.lax.while_loop(unfinished, advance, state)

    group = lambda x: x.reshape(num_groups, group_size, *x.shape[1:])
    return groups.Rollout(
      tokens=group(state.tokens),
      logprobs=group(state.logprobs),
      sampling_logprobs=group(state.sampling_logprobs),
      lengths=group(state.lengths),
      finished=group(state.stop_state == STOPPED),
    )

  return sample


@functools.partial(jax.jit, static_argnames=('num_groups', 'group_size'))
def response_keys(
  path: tuple[jax.Array, ...],
  first_group: jax.Array | int = 0,
  *,
  num_groups: int,
  group_size: int,
) -> jax.Array:
  """One key a response, derived and never carried.

  Args:
    path: numbers that name the call, seed first, say (seed, step, role).
    first_group: number of the first one, where calls share a path.
    num_groups: Q.
    group_size: G.

  Returns:
    Keys [Q, G]: `fold_in` of the path and the row.
  """
  key = jax.random.key(path[0])
  for number in path[1:]:
    key = jax.random.fold_in(key, number)
  rows = first_group * group_size + jnp.arange(num_groups * group_size)
  keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
  return keys_B.reshape(num_groups, group_size)
