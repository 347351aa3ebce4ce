"""The compiled parts of the sampler: prefill, decode and cache updates."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import dedup, groups
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import sampling

STOPPED = 1  # the stop-table state of a finished response


class SamplerSettings(NamedTuple):
  """Sampling settings that can change between calls without recompilation."""

  # [G], 0 is greedy. None means 1 for both temperature and top_p.
  temperature: jax.Array | None
  top_p: jax.Array | None  # [G], None exactly if temperature is None
  limit: jax.Array  # [], maximum number of tokens of a response, at most R
  stop_table: jax.Array  # [states, V], see `text.stopping`


def simplest(settings: SamplerSettings) -> SamplerSettings:
  """Drops temperature and top-p where they are the identity.

  The program compiled without them skips a runtime condition for every token.
  On a GPU, the host has to evaluate that condition.
  """
  if settings.temperature is None:
    return settings
  plain = (settings.temperature == 1) & (settings.top_p >= 1)
  if not np.all(plain):
    return settings
  return settings._replace(temperature=None, top_p=None)


class Progress(NamedTuple):
  """The decoding state of B responses."""

  last: jax.Array  # [B], the token drawn last
  lengths: jax.Array  # [B], number of tokens drawn
  stop_state: jax.Array  # [B], state in the stop table


class Drawn(NamedTuple):
  """Tokens with their log-probabilities, 0 after the end of a response."""

  tokens: jax.Array  # [B, C]
  logprobs: jax.Array  # [B, C]
  sampling_logprobs: jax.Array  # [B, C]


class Prefilled(NamedTuple):
  """The state of N responses after the prefill of their Q prompts."""

  shared: tuple[policy_lib.KeyValues, ...]  # of the common prefix, or empty
  prompts: policy_lib.KeyValues  # [L, Q, K, P, H]
  progress: Progress  # [N]
  drawn: Drawn  # [N, 1]


class _Loop(NamedTuple):
  """The carry of `decode`. Step t writes to slot t."""

  step: jax.Array  # []
  progress: Progress
  drawn: Drawn
  recent: policy_lib.KeyValues
  first: jax.Array | None  # [B], first row with an equal prefix, see `distinct`


def make_prefill(
  policy: policy_lib.Policy, mesh: jax.sharding.Mesh, *, max_rows: int
) -> Callable[..., Prefilled]:
  """Returns a function that processes prompts and draws first tokens.

  Its signature is `prefill(params, prompts, keys_QG, settings) -> Prefilled`.

  Args:
    policy: policy to sample from.
    mesh: mesh that groups are split over.
    max_rows: maximum number of first tokens that are drawn at once, rounded to
      whole groups, of which there is at least one. 0 is no limit.
  """

  @jax.jit
  def prefill(params, prompts, keys_QG, settings):
    num_groups, group_size = keys_QG.shape
    context, last_QD = groups.read_prompts(policy, params, prompts)

    def draw_first(one):
      last_D, keys_G = one
      logits_V = policy.logits(params, last_D)
      logits_GV = jnp.broadcast_to(logits_V, (group_size, *logits_V.shape))
      start = _begin(group_size, settings)
      return _draw_and_stop(start, logits_GV, keys_G, settings)

    at_once = max(max_rows // group_size, 1) if max_rows else num_groups
    progress, drawn = jax.tree.map(
      lambda x: x.reshape(-1),
      jax.lax.map(
        draw_first, (last_QD, keys_QG), batch_size=min(at_once, num_groups)
      ),
    )
    drawn = jax.tree.map(lambda x: x[:, None], drawn)
    *shared, own = context
    own = own._replace(
      keys=sharding.constrain_cache(own.keys, mesh),
      values=sharding.constrain_cache(own.values, mesh),
    )
    progress, drawn = sharding.constrain_whole((progress, drawn), mesh)
    return Prefilled(tuple(shared), own, progress, drawn)

  return prefill


def make_decode(
  policy: policy_lib.Policy, mesh: jax.sharding.Mesh
) -> Callable[..., tuple[Progress, Drawn, policy_lib.KeyValues]]:
  """Returns a function that draws up to C tokens of every row.

  Its signature is `decode(params, context, cache, progress, rows_B, keys_QG,
  settings, first_B, *, width)`:

  - `context` is (common prefix, prompts [A]); A divides B.
  - `cache` holds the keys and values of the responses so far, except for the
    last token, each [L, B, K, S, H]. It is None if no response has an earlier
    token than its last one.
  - `rows_B` are the indices of the responses. They select keys from `keys_QG`
    and per-response settings.
  - `first_B` is, for each row, the first row that is equal so far. Equal rows
    are then computed once. None computes every row.
  - `width` is C.

  Decoding stops early when all responses have finished, or when too many rows
  have become distinct.

  The function returns the progress, the drawn tokens, and the keys and values
  of the tokens that were processed, each [L, B, K, C, H]. The processed tokens
  are the last one drawn before the call and all drawn during it except the
  last.
  """

  @functools.partial(jax.jit, static_argnames='width')
  def decode(
    params,
    context,
    cache,
    progress,
    rows_B,
    keys_QG,
    settings,
    first_B=None,
    *,
    width,
  ):
    num_rows = rows_B.shape[0]
    logits = policy.split_logits(params, by_row=True)
    read_next = functools.partial(_read_next, policy, params, logits)
    keys_B = keys_QG.reshape(-1)[rows_B]
    settings_B = _of_columns(settings, rows_B % keys_QG.shape[1])
    if cache is not None:
      before = policy_lib.KeyValues(*cache, progress.lengths - 1)
      context = (*context, before)

    def advance(loop):
      """Processes the last token of every row and draws the next one."""
      read_B = jnp.full((num_rows,), loop.step)
      before = (*context, loop.recent._replace(lengths=read_B))
      last_B, first_B = loop.progress.last, loop.first
      if first_B is None:
        logits_BV, *new = read_next(last_B, before)
      else:
        running_B = _running(loop.progress, settings)
        logits_BV, *new = dedup.read(
          read_next, last_B, before, first_B, running_B
        )
      write = lambda old, fresh, axis: jax.lax.dynamic_update_slice_in_dim(
        old, fresh, loop.step, axis
      )
      progress, drawn = _draw_and_stop(
        loop.progress, logits_BV, keys_B, settings_B
      )
      if first_B is not None:
        first_B = dedup.still_equal(first_B, drawn.tokens)
      keys, values = (
        write(old, fresh, 3)
        for old, fresh in zip(loop.recent[:2], new, strict=True)
      )
      return _Loop(
        step=loop.step + 1,
        progress=progress,
        drawn=jax.tree.map(
          lambda old, fresh: write(old, fresh[:, None], 1), loop.drawn, drawn
        ),
        recent=loop.recent._replace(keys=keys, values=values),
        first=first_B,
      )

    loop = jax.lax.while_loop(
      lambda loop: (loop.step < width) & _goes_on(loop, settings),
      advance,
      _start(policy, mesh, progress, first_B, width),
    )
    progress, drawn = sharding.constrain_whole(
      (loop.progress, loop.drawn), mesh
    )
    return progress, drawn, (loop.recent.keys, loop.recent.values)

  return decode


def make_store(
  mesh: jax.sharding.Mesh, *, in_place: bool = False
) -> Callable[..., tuple]:
  """Returns a function that writes recent keys and values to a cache.

  Its signature is `store(cache, recent, starts, sources_B, *, slots)`:

  - `cache` holds the earlier keys and values, each [L, A, K, S, H], or is None.
  - `recent` holds the keys and values returned by `decode`.
  - `starts` is the first cache slot that `recent` is written to, [A], or [] if
    it is the same for all rows.
  - `sources_B` are the rows to gather; None keeps all rows in place.
  - `slots` is the capacity of the new cache.

  The function returns the keys and values of the new cache, each
  [L, B, K, slots, H]. Slots after the end of a response hold arbitrary values.

  Args:
    mesh: mesh that rows are split over.
    in_place: donate the cache. Requires that its rows and its capacity do not
      change.
  """

  @functools.partial(
    jax.jit,
    static_argnames='slots',
    donate_argnames='cache' if in_place else None,
  )
  def store(cache, recent, starts, sources_B, *, slots):
    if sources_B is not None:
      cache, recent = jax.tree.map(lambda x: x[:, sources_B], (cache, recent))
      starts = starts if starts.ndim == 0 else starts[sources_B]

    def join(old, new):
      *outer, _, head_width = new.shape
      whole = jnp.zeros((*outer, slots, head_width), new.dtype)
      if old is not None:
        whole = jax.lax.dynamic_update_slice_in_dim(
          whole, old[:, :, :, :slots], 0, axis=3
        )
      write = jax.lax.dynamic_update_slice_in_dim
      if starts.ndim:
        by_row = functools.partial(write, axis=2)
        whole = jax.vmap(by_row, (1, 1, 0), 1)(whole, new, starts)
      else:
        whole = write(whole, new, starts, axis=3)
      return sharding.constrain_cache(whole, mesh)

    return tuple(
      join(old, new)
      for old, new in zip(cache or (None, None), recent, strict=True)
    )

  return store


def make_empty(
  policy: policy_lib.Policy, mesh: jax.sharding.Mesh
) -> Callable[..., tuple]:
  """Returns a function `empty(rows, slots)` that creates an empty cache."""

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def empty(rows, slots):
    keys, values, _ = policy.init_cache(rows, slots)
    return tuple(sharding.constrain_cache(x, mesh) for x in (keys, values))

  return empty


def make_take_prompts(
  mesh: jax.sharding.Mesh,
) -> Callable[..., policy_lib.KeyValues]:
  """Returns a function that gathers the keys and values of prompts.

  Its signature is `take_prompts(prompts, which_A, *, slots)`. `which_A` are
  indices into the Q prompts and may repeat. The result is padded to `slots`
  cache slots, at least the number of slots in `prompts`.
  """

  @functools.partial(jax.jit, static_argnames='slots')
  def take_prompts(prompts, which_A, *, slots):
    more = slots - prompts.keys.shape[3]

    def take(x):
      x = jnp.pad(x[:, which_A], [(0, more * (i == 3)) for i in range(x.ndim)])
      return sharding.constrain_cache(x, mesh)

    return policy_lib.KeyValues(
      take(prompts.keys), take(prompts.values), prompts.lengths[which_A]
    )

  return take_prompts


def _start(
  policy: policy_lib.Policy,
  mesh: jax.sharding.Mesh,
  progress: Progress,
  first_B: jax.Array | None,
  width: int,
) -> _Loop:
  """Returns the loop state before the first of `width` tokens."""
  num_rows = progress.last.shape[0]
  empty = lambda dtype: jnp.zeros((num_rows, width), dtype)
  recent = policy.init_cache(num_rows, width)
  return _Loop(
    step=jnp.zeros((), jnp.int32),
    progress=progress,
    drawn=Drawn(empty(jnp.int32), empty(jnp.float32), empty(jnp.float32)),
    recent=recent._replace(
      keys=sharding.constrain_cache(recent.keys, mesh),
      values=sharding.constrain_cache(recent.values, mesh),
    ),
    first=first_B,
  )


def _goes_on(loop: _Loop, settings: SamplerSettings) -> jax.Array:
  """Returns True while a response is running and few rows are distinct."""
  running_B = _running(loop.progress, settings)
  any_left = jnp.any(running_B)
  if loop.first is None:
    return any_left
  return any_left & dedup.few(loop.first, running_B)


def _read_next(
  policy: policy_lib.Policy,
  params: policy_lib.Params,
  logits: Callable[[jax.Array], jax.Array],
  last_B: jax.Array,
  context: tuple[policy_lib.KeyValues, ...],
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Processes one token per row.

  Returns:
    The logits of the next token [B, V], and the keys and values of `last_B`.
  """
  ones_B = jnp.ones(last_B.shape, jnp.int32)
  hidden_B1D, new = policy.forward(params, last_B[:, None], ones_B, context)
  return logits(hidden_B1D[:, 0]), new.keys, new.values


def _of_columns(
  settings: SamplerSettings, column_B: jax.Array
) -> SamplerSettings:
  if settings.temperature is None:
    return settings
  return settings._replace(
    temperature=settings.temperature[column_B],
    top_p=settings.top_p[column_B],
  )


def _begin(num_rows: int, settings: SamplerSettings) -> Progress:
  zeros = jnp.zeros((num_rows,), jnp.int32)
  return Progress(zeros, zeros, zeros.astype(settings.stop_table.dtype))


def _running(progress: Progress, settings: SamplerSettings) -> jax.Array:
  below_limit_B = progress.lengths < settings.limit
  return below_limit_B & (progress.stop_state != STOPPED)


def _draw_and_stop(
  progress: Progress,
  logits_BV: jax.Array,
  keys_B: jax.Array,
  settings: SamplerSettings,
) -> tuple[Progress, Drawn]:
  """Draws the next token of every unfinished response."""
  step_keys_B = jax.vmap(jax.random.fold_in)(keys_B, progress.lengths)
  drawn = sampling.draw(
    jax.vmap(jax.random.uniform)(step_keys_B),
    logits_BV,
    temperature_B=settings.temperature,
    top_p_B=settings.top_p,
  )
  running_B = _running(progress, settings)
  next_state_B = settings.stop_table[progress.stop_state, drawn.tokens]
  keep = lambda new_B, old_B: jnp.where(running_B, new_B, old_B)
  progress = Progress(
    last=keep(drawn.tokens, progress.last),
    lengths=progress.lengths + running_B,
    stop_state=keep(next_state_B, progress.stop_state),
  )
  return progress, Drawn(*(keep(new_B, 0) for new_B in drawn))
