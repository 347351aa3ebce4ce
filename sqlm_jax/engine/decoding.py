"""Decoding: draws the next C tokens of every response.

`decode` is a compiled loop over `advance`, which draws one token of every row
from a `DecodeState`.
"""

import functools
from typing import Generic, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import dedup, kv_cache
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import sampling
from sqlm_jax.ops.arrays import Array

STOPPED = 1  # the stop-table state of a finished response

Context = tuple[policy_lib.KeyValues, ...]


class SamplerSettings(NamedTuple, Generic[Array]):
  """Sampling settings that can change between calls without recompilation."""

  # [G], 0 is greedy. None means 1 for both temperature and top_p.
  temperature: Array | None
  # [G], None exactly if temperature is None.
  top_p: Array | None
  # [], maximum number of tokens of a response, at most R.
  limit: Array
  stop_table: Array  # [states, V], see `text.stopping`


def simplify(
  settings: SamplerSettings[np.ndarray],
) -> SamplerSettings[np.ndarray]:
  """Drops temperature and top-p where they are the identity.

  The program compiled without them skips a runtime condition for every token.
  On a GPU, the host has to evaluate that condition.
  """
  if settings.temperature is None or settings.top_p is None:
    return settings
  is_identity = (settings.temperature == 1) & (settings.top_p >= 1)
  if not np.all(is_identity):
    return settings
  return settings._replace(temperature=None, top_p=None)


class Progress(NamedTuple, Generic[Array]):
  """The decoding progress of B responses."""

  last: Array  # [B], the token drawn last
  lengths: Array  # [B], number of tokens drawn
  stop_state: Array  # [B], state in the stop table


class Drawn(NamedTuple, Generic[Array]):
  """Tokens with their log-probabilities, 0 after the end of a response."""

  tokens: Array  # [B, C]
  logprobs: Array  # [B, C]
  sampling_logprobs: Array  # [B, C]


class DecodeState(NamedTuple):
  """The state of `decode` before step t, which writes to slot t of C slots.

  Attributes:
    step: [], t.
    progress: progress of the B rows.
    drawn: tokens drawn since the start, [B, C] each.
    recent: keys and values of the processed tokens, [L, B, K, C, H] each.
    first_B: for each row, the first row with the same prompt and tokens, see
      `dedup`. If None, every row is computed.
  """

  step: jax.Array
  progress: Progress
  drawn: Drawn
  recent: policy_lib.KeyValues
  first_B: jax.Array | None


class Decode(Protocol):
  """Draws up to C tokens of every row."""

  def __call__(
    self,
    params: policy_lib.Params,
    context: Context,
    cache: kv_cache.Pair | None,
    progress: Progress[np.ndarray],
    rows_B: np.ndarray,
    keys_QG: jax.Array,
    settings: SamplerSettings,
    first_B: np.ndarray | None = None,
    *,
    width: int,
  ) -> tuple[Progress, Drawn, kv_cache.Pair]:
    """Draws tokens until all responses have finished, at most C.

    Decoding also stops if too many rows have become distinct, see `dedup`.

    Args:
      params: parameters of the policy.
      context: keys and values of the common prefix, and of prompts [A]; A
        divides B.
      cache: keys and values of all drawn tokens except the last of each
        response, [L, B, K, S, H] each; None if no response has more than one
        token.
      progress: progress of the rows.
      rows_B: index of the response in each row, which selects its key and its
        settings.
      keys_QG: one random key per response.
      settings: sampling settings.
      first_B: for each row, the first row with the same prompt and tokens.
        Equal rows are then computed once. If None, every row is computed.
      width: C.

    Returns:
      The progress, the drawn tokens, and the keys and values of the tokens that
      were processed, [L, B, K, C, H] each: the last token drawn before the
      call, and all tokens drawn during the call except the last.
    """


def make_decode(policy: policy_lib.Policy, mesh: jax.sharding.Mesh) -> Decode:
  """Returns the program that draws up to C tokens of every row."""

  @functools.partial(jax.jit, static_argnames='width')
  def decode(
    params: policy_lib.Params,
    context: Context,
    cache: kv_cache.Pair | None,
    progress: Progress,
    rows_B: jax.Array,
    keys_QG: jax.Array,
    settings: SamplerSettings,
    first_B: jax.Array | None = None,
    *,
    width: int,
  ) -> tuple[Progress, Drawn, kv_cache.Pair]:
    logits = policy.split_logits(params, by_row=True)
    keys_B = keys_QG.reshape(-1)[rows_B]
    settings_B = _select_columns(settings, rows_B % keys_QG.shape[1])
    if cache is not None:
      before = policy_lib.KeyValues(*cache, progress.lengths - 1)
      context = (*context, before)
    state = jax.lax.while_loop(
      lambda state: (state.step < width) & _has_more(state, settings),
      functools.partial(
        advance,
        read_next=functools.partial(_read_next, policy, params, logits),
        context=context,
        keys_B=keys_B,
        settings_B=settings_B,
      ),
      _start_state(policy, mesh, progress, first_B=first_B, width=width),
    )
    progress, drawn = sharding.constrain_replicated(
      (state.progress, state.drawn), mesh
    )
    return progress, drawn, (state.recent.keys, state.recent.values)

  return decode


def advance(
  state: DecodeState,
  *,
  read_next: dedup.ReadNext,
  context: Context,
  keys_B: jax.Array,
  settings_B: SamplerSettings,
) -> DecodeState:
  """Processes the last token of every row and draws the next one.

  Args:
    state: state before the step.
    read_next: processes one token per row.
    context: keys and values before those of `state.recent`.
    keys_B: random key of each row.
    settings_B: sampling settings, with one temperature and top-p per row.
  """
  last_B = state.progress.last
  read_B = jnp.full(last_B.shape, state.step)
  before = (*context, state.recent._replace(lengths=read_B))
  if state.first_B is None:
    logits_BV, keys, values = read_next(last_B, before)
  else:
    logits_BV, keys, values = dedup.read_distinct(
      read_next,
      last_B,
      before,
      first_B=state.first_B,
      running_B=_running(state.progress, settings_B),
    )
  progress, drawn = draw(
    state.progress, logits_BV, keys_B=keys_B, settings_B=settings_B
  )
  first_B = state.first_B
  if first_B is not None:
    first_B = dedup.still_equal(first_B, drawn.tokens)

  def write(old: jax.Array, new: jax.Array, axis: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(old, new, state.step, axis)

  return DecodeState(
    step=state.step + 1,
    progress=progress,
    drawn=jax.tree.map(
      lambda old, new: write(old, new[:, None], 1), state.drawn, drawn
    ),
    recent=state.recent._replace(
      keys=write(state.recent.keys, keys, 3),
      values=write(state.recent.values, values, 3),
    ),
    first_B=first_B,
  )


def _start_state(
  policy: policy_lib.Policy,
  mesh: jax.sharding.Mesh,
  progress: Progress,
  *,
  first_B: jax.Array | None,
  width: int,
) -> DecodeState:
  """Returns the state before the first of `width` tokens."""
  num_rows = progress.last.shape[0]
  recent = policy.init_cache(num_rows, width)

  def zeros(dtype: type) -> jax.Array:
    return jnp.zeros((num_rows, width), dtype)

  return DecodeState(
    step=jnp.zeros((), jnp.int32),
    progress=progress,
    drawn=Drawn(zeros(jnp.int32), zeros(jnp.float32), zeros(jnp.float32)),
    recent=recent._replace(
      keys=sharding.constrain_cache(recent.keys, mesh),
      values=sharding.constrain_cache(recent.values, mesh),
    ),
    first_B=first_B,
  )


def _has_more(state: DecodeState, settings: SamplerSettings) -> jax.Array:
  """Returns True while a response is running and few rows are distinct."""
  running_B = _running(state.progress, settings)
  any_running = jnp.any(running_B)
  if state.first_B is None:
    return any_running
  return any_running & dedup.are_few(state.first_B, running_B)


def _read_next(
  policy: policy_lib.Policy,
  params: policy_lib.Params,
  logits: policy_lib.RowLogits,
  last_B: jax.Array,
  context: Context,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Processes one token per row.

  Returns:
    The logits of the next token [B, V], and the keys and values of `last_B`.
  """
  ones_B = jnp.ones(last_B.shape, jnp.int32)
  hidden_B1D, new = policy.forward(params, last_B[:, None], ones_B, context)
  return logits(hidden_B1D[:, 0]), new.keys, new.values


def _select_columns(
  settings: SamplerSettings, column_B: jax.Array
) -> SamplerSettings:
  """Returns the settings of each row, given its position in its group."""
  if settings.temperature is None or settings.top_p is None:
    return settings
  return settings._replace(
    temperature=settings.temperature[column_B],
    top_p=settings.top_p[column_B],
  )


def start_progress(num_rows: int, settings: SamplerSettings) -> Progress:
  """Returns the progress of responses without a token."""
  zeros = jnp.zeros((num_rows,), jnp.int32)
  return Progress(zeros, zeros, zeros.astype(settings.stop_table.dtype))


def _running(progress: Progress, settings: SamplerSettings) -> jax.Array:
  below_limit_B = progress.lengths < settings.limit
  return below_limit_B & (progress.stop_state != STOPPED)


def draw(
  progress: Progress,
  logits_BV: jax.Array,
  *,
  keys_B: jax.Array,
  settings_B: SamplerSettings,
) -> tuple[Progress, Drawn]:
  """Draws the next token of every unfinished response."""
  step_keys_B = jax.vmap(jax.random.fold_in)(keys_B, progress.lengths)
  drawn = sampling.draw(
    jax.vmap(jax.random.uniform)(step_keys_B),
    logits_BV,
    temperature_B=settings_B.temperature,
    top_p_B=settings_B.top_p,
  )
  running_B = _running(progress, settings_B)
  next_state_B = settings_B.stop_table[progress.stop_state, drawn.tokens]

  def where_running(new_B: jax.Array, old_B: jax.Array | int) -> jax.Array:
    return jnp.where(running_B, new_B, old_B)

  progress = Progress(
    last=where_running(drawn.tokens, progress.last),
    lengths=progress.lengths + running_B,
    stop_state=where_running(next_state_B, progress.stop_state),
  )
  return progress, Drawn(*(where_running(new_B, 0) for new_B in drawn))
