"""The sampler: continues every prompt G times, C tokens at a time.

1. `prefill` computes every prompt once and draws the first token of each of
   its responses.
2. `decode` draws up to C more tokens of every response that occupies a row.
3. The host checks which responses have finished. `schedule` packs the
   unfinished ones, and those that are waiting for a row, into as few rows as
   possible. `store` moves their keys and values to these rows, into a cache
   whose capacity follows the longest unfinished response. The loop then
   continues with step 2.

Finished responses and unused cache capacity therefore cost almost nothing.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import (
  decoding,
  dedup,
  groups,
  rollout_buffer,
  row_scheduler,
)
from sqlm_jax.models import policy as policy_lib

STOPPED = decoding.STOPPED
SamplerSettings = decoding.SamplerSettings


class _Chunk(NamedTuple):
  """The results of one call of `decode` that stay on the devices.

  Attributes:
    layout: assignment of responses to rows during the call.
    cache: keys and values stored before the call, each [L, B, K, S, H], or
      None if there were none.
    recent: keys and values of the tokens processed by the call, each
      [L, B, K, C, H].
    starts: [B], first cache slot of each row that `recent` belongs in.
  """

  layout: row_scheduler.Layout
  cache: tuple | None
  recent: tuple
  starts: np.ndarray


def _nobody_hears(which_Q, tokens_QGR, lengths_QG) -> None:
  pass


def make_sampler(
  policy: policy_lib.Policy,
  mesh: jax.sharding.Mesh,
  *,
  chunk: int = 32,
  max_rows: int = 0,
  gather_weights: bool = False,
  share: bool = True,
  static: bool = False,
) -> Callable[..., groups.Rollout]:
  """Returns a function `sample` that draws a rollout.

  Its signature is `sample(params, prompts, keys_QG, settings, *, slots,
  num_prompts, on_ended) -> Rollout`:

  - `keys_QG` holds one random key per response. Token t is drawn with
    `fold_in(key, t)`. A response therefore depends only on its prompt, its key
    and the settings, and not on the rest of the batch or on when it is decoded.
  - `slots` is R, the maximum number of tokens of a response.
  - `num_prompts` is the number of prompts to continue, from the first on. The
    default is all of them. The remaining prompts are padding.
  - `on_ended(which_Q, tokens_QGR, lengths_QG)` is called once for each prompt,
    as soon as all of its responses have finished, while the devices decode
    other responses.

  Every process holds the full rollout in host memory, at 12 bytes per token.
  All processes therefore know which responses have finished, and compute the
  same layout.

  Args:
    policy: policy to sample from.
    mesh: mesh that rows are split over.
    chunk: C, number of tokens drawn between two checks for finished responses.
    max_rows: maximum number of responses that are decoded at the same time,
      while the others wait; at least the size of a group. 0 is no limit.
    gather_weights: gather sharded weights on every device once per call,
      instead of layer by layer for every token.
    share: compute identical response prefixes once. Applies only on a single
      CPU, and only where it saves time.
    static: keep the layout until all of its responses have finished, as static
      batching does. Serves as a baseline for comparisons.
  """
  prepare = _make_prepare(policy, mesh, gather_weights=gather_weights)
  prefill = decoding.make_prefill(policy, mesh, max_rows=max_rows)
  decode = decoding.make_decode(policy, mesh)
  shapes = row_scheduler.FEW if policy.reads_live else row_scheduler.FINE
  keep = _make_keep(policy, mesh, shapes)
  take_prompts = decoding.make_take_prompts(mesh)
  shards = sharding.row_shards(mesh)
  equal_rows = _make_equal_rows(mesh, share=share)

  def sample(
    params,
    prompts,
    keys_QG,
    settings,
    *,
    slots,
    num_prompts=None,
    on_ended=_nobody_hears,
  ):
    num_groups, group_size = keys_QG.shape
    num_rows = num_groups * group_size
    limit, width = min(int(settings.limit), slots), min(chunk, slots)
    repack = functools.partial(
      row_scheduler.repack,
      static=static,
      group_size=group_size,
      max_rows=max(max_rows, group_size) if max_rows else num_rows,
      multiple=shards,
      shapes=shapes,
    )
    record = rollout_buffer.Record(
      keys_QG.shape, slots, settings.stop_table.dtype
    )
    settings = decoding.simplest(settings._replace(limit=np.int32(limit)))
    settings = sharding.put_whole(settings, mesh)
    params = prepare(params)  # once per call, not once per chunk
    first = prefill(params, prompts, keys_QG, settings)
    params = policy.take_apart(params)
    rows_N = rollout_buffer.asked(num_groups, group_size, num_prompts)
    record.add(rows_N, *jax.device_get((first.progress, first.drawn)))
    prompt_room = first.prompts.keys.shape[3]
    if policy.reads_live:
      prompt_room = shapes.room(prompt_room, width)

    last = None
    while (unfinished := record.unfinished(limit)).size:
      layout = repack(last and last.layout, unfinished)
      if last is None or layout is not last.layout:
        own = take_prompts(first.prompts, layout.prompts, slots=prompt_room)
      cache = keep(last, layout, unfinished, width=width, slots=slots)
      last = None  # otherwise the old cache stays in memory with the new one
      rows_B = layout.rows.reshape(-1)
      progress = record.of(rows_B)
      *new, recent = decode(
        params,
        (*first.shared, own),
        cache,
        progress,
        rows_B,
        keys_QG,
        settings,
        equal_rows(record, prompts, rows_B, params, own, cache, width),
        width=width,
      )
      last = _Chunk(layout, cache, recent, progress.lengths - 1)
      record.tell(unfinished, num_prompts, on_ended)
      record.add(rows_B, *jax.device_get(new))
    record.tell(unfinished, num_prompts, on_ended)
    return record.rollout()

  return sample


def _make_equal_rows(
  mesh: jax.sharding.Mesh, *, share: bool
) -> Callable[..., np.ndarray | None]:
  """Returns a function that finds rows with identical prefixes.

  Its signature is `equal_rows(record, prompts, rows_B, params, own, cache,
  width)`, where `own` holds the keys and values of the rows' prompts, and
  `cache` those of their responses so far. It returns, for each row, the first
  row that is equal so far, or None if it is faster to compute every row.
  """
  share &= sharding.is_one_cpu(mesh)

  def equal_rows(record, prompts, rows_B, params, own, cache, width):
    if not share:
      return None
    slots = width + (cache[0].shape[3] if cache else 0)
    if not dedup.pays(params, own, len(rows_B), slots):
      return None
    first_B, running_B = record.firsts(rows_B, prompts)
    return first_B if dedup.few(first_B, running_B) else None

  return equal_rows


def _make_prepare(
  policy: policy_lib.Policy, mesh: jax.sharding.Mesh, *, gather_weights: bool
) -> Callable[[policy_lib.Params], policy_lib.Params]:
  """Returns a function that casts, and if requested gathers, parameters."""

  @jax.jit
  def make(params):
    params = policy.cast(params)
    if not gather_weights:
      return params
    return jax.lax.with_sharding_constraint(
      params, sharding.shard_gathered(params, mesh)
    )

  def prepare(params):
    dtypes = lambda tree: [x.dtype for x in jax.tree.leaves(tree)]
    ready = dtypes(params) == dtypes(jax.eval_shape(policy.cast, params))
    # A jitted function returns a copy, even of an argument it does not change.
    return params if ready and not gather_weights else make(params)

  return prepare


@functools.partial(jax.jit, static_argnames=('num_groups', 'group_size'))
def response_keys(
  path: tuple[jax.Array, ...],
  first_group: jax.Array | int = 0,
  *,
  num_groups: int,
  group_size: int,
) -> jax.Array:
  """Derives one random key per response, without any carried state.

  Args:
    path: numbers that identify the call, starting with the seed, for example
      (seed, step, role).
    first_group: index of the first group, where several calls share a path.
    num_groups: Q.
    group_size: G.

  Returns:
    Keys [Q, G]: the key of the path with the row index folded in.
  """
  key = jax.random.key(path[0])
  for number in path[1:]:
    key = jax.random.fold_in(key, number)
  rows = first_group * group_size + jnp.arange(num_groups * group_size)
  keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
  return keys_B.reshape(num_groups, group_size)


def _make_keep(
  policy: policy_lib.Policy,
  mesh: jax.sharding.Mesh,
  shapes: row_scheduler.Shapes,
) -> Callable[..., tuple | None]:
  """Returns a function that moves cached keys and values to the next layout.

  Its signature is `keep(last, layout, unfinished, *, width, slots)`. It moves
  the unfinished responses of the `last` chunk of `width` tokens to `layout`,
  into a cache with enough capacity for them. No chunk starts after slot
  `slots`. The cache is updated in place if its rows and its capacity stay the
  same.

  If no response of the last chunk is unfinished, it returns None, or an empty
  cache if `policy.reads_live`: the empty slots then cost no time, and `decode`
  is not compiled a second time for a call without a cache.
  """
  empty = decoding.make_empty(policy, mesh)
  store = decoding.make_store(mesh)
  store_in_place = decoding.make_store(mesh, in_place=True)

  def keep(last, layout, unfinished, *, width, slots):
    if last is not None:
      stays_B = np.isin(last.layout.rows.reshape(-1), unfinished)
    if last is None or not stays_B.any():
      room = shapes.room(0, width, most=slots)
      return empty(layout.rows.size, room) if policy.reads_live else None
    # All `width` slots of a chunk are written, even if it stopped early.
    room = shapes.room(last.starts[stays_B].max() + width, width, most=slots)
    sources_B = None
    if layout is not last.layout:
      sources_B = row_scheduler.sources(last.layout, layout)
    same_rows = last.cache is not None and sources_B is None
    in_place = same_rows and last.cache[0].shape[3] == room
    return (store_in_place if in_place else store)(
      last.cache,
      last.recent,
      _one_for_all(last.starts, stays_B),
      sources_B,
      slots=room,
    )

  return keep


def _one_for_all(starts_B: np.ndarray, counts_B: np.ndarray) -> np.ndarray:
  """Returns the common value of the selected starts, or all if they differ."""
  first, *others = np.unique(starts_B[counts_B])
  return starts_B if others else first
