"""The compiled parts of the sampler: read prompts, draw tokens, store them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import distinct, groups
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import sampling

STOPPED = 1  # the state of a stop table in which a response has ended


class SamplerSettings(NamedTuple):
  """What may change from call to call without a compilation."""

  temperature: jax.Array | None  # [G], 0 is greedy; None with top_p, 1
  top_p: jax.Array | None  # [G]
  limit: jax.Array  # [], tokens a response may have, at most R
  stop_table: jax.Array  # [states, V], see `text.stopping`


def simplest(settings: SamplerSettings) -> SamplerSettings:
  """Without temperatures and nuclei where the policy itself is drawn from.

  It makes another program, in which no token looks whether there are any: for
  that a GPU asks its host.
  """
  if settings.temperature is None:
    return settings
  plain = (settings.temperature == 1) & (settings.top_p >= 1)
  if not np.all(plain):
    return settings
  return settings._replace(temperature=None, top_p=None)


class Progress(NamedTuple):
  """How far B responses are."""

  last: jax.Array  # [B], the token drawn last
  lengths: jax.Array  # [B], tokens drawn
  stop_state: jax.Array  # [B]


class Drawn(NamedTuple):
  """Tokens with their log-probabilities; behind a response's end stands 0."""

  tokens: jax.Array  # [B, C]
  logprobs: jax.Array  # [B, C]
  sampling_logprobs: jax.Array  # [B, C]


class Prefilled(NamedTuple):
  """What is known of N responses once their Q prompts are read."""

  shared: tuple[policy_lib.KeyValues, ...]  # of the common prefix, if any
  prompts: policy_lib.KeyValues  # [L, Q, K, P, H]
  progress: Progress  # [N]
  drawn: Drawn  # [N, 1]


class _Loop(NamedTuple):
  """The carry of `decode`. Step t writes to slot t."""

  step: jax.Array  # []
  progress: Progress
  drawn: Drawn
  recent: policy_lib.KeyValues
  first: jax.Array | None  # [B], see `distinct`


def make_prefill(
  policy: policy_lib.Policy, mesh: jax.sharding.Mesh, *, max_rows: int
) -> Callable[..., Prefilled]:
  """Builds `prefill(params, prompts, keys_QG, settings)`.

  Args:
    policy: what is sampled from.
    mesh: groups are split over it.
    max_rows: first tokens that are drawn at once; 0 is no bound.
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
  """Builds `decode(params, context, cache, progress, rows_B, ...)`.

  Its arguments: `context` is (common prefix, prompts [A]), whose rows divide
  those of the batch; `cache` holds the responses so far but for the last
  token, [L, B, K, S, H], None where nothing stands before that one; `rows_B`
  are the numbers of the responses, which pick their keys out of `keys_QG` and
  their settings; `first_B` are the first of the rows that are equal so far, to
  read these once, None reads each; `width` is C. It stops early where nobody
  has a token to go, or too many rows have become different.

  It returns the progress, what was drawn, and keys and values of the tokens
  that were read meanwhile, [L, B, K, C, H]: the last one before, and all that
  were drawn but the last.
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
      """Reads the last token drawn and draws another."""
      read_B = jnp.full((num_rows,), loop.step)
      before = (*context, loop.recent._replace(lengths=read_B))
      last_B, first_B = loop.progress.last, loop.first
      if first_B is None:
        logits_BV, *new = read_next(last_B, before)
      else:
        running_B = _running(loop.progress, settings)
        logits_BV, *new = distinct.read(
          read_next, last_B, before, first_B, running_B
        )
      write = lambda old, fresh, axis: jax.lax.dynamic_update_slice_in_dim(
        old, fresh, loop.step, axis
      )
      progress, drawn = _draw_and_stop(
        loop.progress, logits_BV, keys_B, settings_B
      )
      if first_B is not None:
        first_B = distinct.still_equal(first_B, drawn.tokens)
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
  """Builds `store(cache, recent, starts, sources_B, *, slots)`.

  Its arguments: `cache` is the keys and values so far, each
  [L, A, K, S, H], or None; `recent` those that `decode` has returned, which
  belong into the slots from `starts` on, [A] or one for all; `sources_B` are
  the rows to take, None leaves them where they are. It returns a cache
  [L, B, K, slots, H]. What stands in it behind a response means nothing.

  Args:
    mesh: rows are split over it.
    in_place: donate the cache. For one that keeps its rows and its slots.
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
  """Builds `empty(rows, slots)`, a cache in which nothing stands yet."""

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def empty(rows, slots):
    keys, values, _ = policy.init_cache(rows, slots)
    return tuple(sharding.constrain_cache(x, mesh) for x in (keys, values))

  return empty


def make_take_prompts(
  mesh: jax.sharding.Mesh,
) -> Callable[..., policy_lib.KeyValues]:
  """Builds `take_prompts(prompts [Q], which_A, *, slots)`.

  They may repeat. `slots` are at least as many as there are.
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
  """Before the first of `width` tokens."""
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
  """Whether somebody has a token to go, and few rows are different."""
  running_B = _running(loop.progress, settings)
  any_left = jnp.any(running_B)
  if loop.first is None:
    return any_left
  return any_left & distinct.few(loop.first, running_B)


def _read_next(
  policy: policy_lib.Policy,
  params: policy_lib.Params,
  logits: Callable[[jax.Array], jax.Array],
  last_B: jax.Array,
  context: tuple[policy_lib.KeyValues, ...],
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Reads one token a row: logits of the next [B, V], its keys and values."""
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
  """Draws the next token of every response that has not ended."""
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
