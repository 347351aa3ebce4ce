"""The sampler: continues every prompt G times, C tokens at a time.

1. `prefill` computes every prompt once and draws the first token of each of
   its responses.
2. `decode` draws up to C more tokens of every response that has a row.
3. The host looks who has ended. `schedule` packs the others, and what waits
   for a row, into as few rows as it takes; `store` moves their keys and values
   there, into a cache that is as long as the longest of them by now. Back to 2.

So neither a response that has ended costs much nor room that nobody uses.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import decoding, distinct, groups, schedule
from sqlm_jax.engine import record as record_lib
from sqlm_jax.models import policy as policy_lib

STOPPED = decoding.STOPPED
SamplerSettings = decoding.SamplerSettings


class _Chunk(NamedTuple):
  """What a call of `decode` leaves on the devices.

  Attributes:
    layout: the rows.
    cache: what was stored of them before, [L, B, K, S, H]; None if nothing.
    recent: keys and values of the tokens that it has read, [L, B, K, C, H].
    starts: the slots that these belong into, [B].
  """

  layout: schedule.Layout
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
  """Builds `sample(params, prompts, keys_QG, settings, *, slots, ...)`.

  `keys_QG` are one random key a response; token t is drawn with
  `fold_in(key, t)`. A response therefore depends on its prompt, its key and
  the settings, and not on what else is in the batch or when it had its turn.
  `slots` is R, the room for a response. Only the first `num_prompts` are
  continued (default, all); the others fill the shape. `on_ended(which_Q,
  tokens_QGR, lengths_QG)` hears of each prompt once, as soon as its responses
  have all ended; the devices draw those of others meanwhile. The rollout is in
  host memory, all of it in every process: a token is 12 bytes, and whoever
  knows who has ended packs the same rows.

  Args:
    policy: what is sampled from.
    mesh: rows are split over it.
    chunk: C, tokens between two looks at who has ended.
    max_rows: responses that are decoded side by side, while others wait; at
      least a group's. 0: all.
    gather_weights: give devices whole weights for a call, not a layer's for
      every token.
    share: read rows that are equal so far once; on one CPU, where it pays.
    static: keep the rows until the last response in them has ended, as static
      batching does. To compare with.
  """
  prepare = _make_prepare(policy, mesh, gather_weights=gather_weights)
  prefill = decoding.make_prefill(policy, mesh, max_rows=max_rows)
  decode = decoding.make_decode(policy, mesh)
  shapes = schedule.FEW if policy.reads_live else schedule.FINE
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
      schedule.repack,
      static=static,
      group_size=group_size,
      max_rows=max(max_rows, group_size) if max_rows else num_rows,
      multiple=shards,
      shapes=shapes,
    )
    record = record_lib.Record(keys_QG.shape, slots, settings.stop_table.dtype)
    settings = decoding.simplest(settings._replace(limit=np.int32(limit)))
    settings = sharding.put_whole(settings, mesh)
    params = prepare(params)  # not once a chunk
    first = prefill(params, prompts, keys_QG, settings)
    params = policy.take_apart(params)
    rows_N = record_lib.asked(num_groups, group_size, num_prompts)
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
      last = None  # else an old cache stays in memory beside the new one
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
  """Builds `equal_rows(record, prompts, rows_B, params, own, cache, width)`.

  It returns for each row the first that is equal so far; None where each had
  better be read on its own. `own` are the keys and values of the rows'
  prompts, `cache` those of what they have written.
  """
  share &= sharding.is_one_cpu(mesh)

  def equal_rows(record, prompts, rows_B, params, own, cache, width):
    if not share:
      return None
    slots = width + (cache[0].shape[3] if cache else 0)
    if not distinct.pays(params, own, len(rows_B), slots):
      return None
    first_B, running_B = record.firsts(rows_B, prompts)
    return first_B if distinct.few(first_B, running_B) else None

  return equal_rows


def _make_prepare(
  policy: policy_lib.Policy, mesh: jax.sharding.Mesh, *, gather_weights: bool
) -> Callable[[policy_lib.Params], policy_lib.Params]:
  """Builds what makes parameters ready for a call: their dtype, their place."""

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
    # What a jitted function returns is a copy, of what it was given, too.
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


def _make_keep(
  policy: policy_lib.Policy, mesh: jax.sharding.Mesh, shapes: schedule.Shapes
) -> Callable[..., tuple | None]:
  """Builds `keep(last, layout, unfinished, *, width, slots)`.

  It takes the unfinished responses from the `last` chunk of `width` tokens to
  the next layout, into a cache with room for them; no chunk begins behind slot
  `slots`. Where none stays it returns None, or a cache with nothing in it where
  that costs nothing: a program less is compiled. What neither moves nor grows
  is stored in place.
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
    # A chunk is written whole, also where it has ended early.
    room = shapes.room(last.starts[stays_B].max() + width, width, most=slots)
    sources_B = None
    if layout is not last.layout:
      sources_B = schedule.sources(last.layout, layout)
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
  """The common value of those that count, if there is one; else all."""
  first, *others = np.unique(starts_B[counts_B])
  return starts_B if others else first
