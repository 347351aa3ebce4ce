"""The sampler: continues every prompt G times, C tokens at a time.

1. `prefill` computes every prompt once and draws the first token of each of
   its responses.
2. The host checks which responses have finished. `row_scheduler.repack` assigns
   the unfinished ones, and those that are waiting for a row, to as few rows as
   possible. `kv_cache.CacheMover` moves their keys and values to these rows,
   into a cache whose capacity follows the longest unfinished response.
3. `decode` draws up to C more tokens of every response that occupies a row, and
   the `RolloutBuffer` on the host receives them. The loop then continues with
   step 2.

Finished responses and unused cache capacity therefore cost almost nothing.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.distributed import sharding, transfers
from sqlm_jax.engine import (
  decoding,
  dedup,
  groups,
  kv_cache,
  rollout_buffer,
  row_scheduler,
)
from sqlm_jax.engine import prefill as prefill_lib
from sqlm_jax.models import policy as policy_lib

SamplerSettings = decoding.SamplerSettings


class _Call(NamedTuple):
  """The parts of a sampler call that stay the same in every chunk.

  Attributes:
    params: parameters, prepared for decoding.
    prompts: the prompts.
    keys_QG: one random key per response.
    settings: sampling settings, on the devices.
    prefix: keys and values of the common prefix, or empty.
    prompt_keys_values: keys and values of all prompts.
    prompt_slots: capacity for a prompt during decoding.
    limits: bounds on layouts.
    width: C, number of tokens of a chunk.
    slots: R, capacity of a response.
  """

  params: policy_lib.Params
  prompts: groups.Prompts
  keys_QG: jax.Array
  settings: SamplerSettings
  prefix: decoding.Context
  prompt_keys_values: policy_lib.KeyValues
  prompt_slots: int
  limits: row_scheduler.Limits
  width: int
  slots: int


@dataclasses.dataclass
class _Rows:
  """The rows of a sampler call, with the arrays that belong to them.

  It is mutable so that each array is freed as soon as another one replaces it.

  Attributes:
    layout: assignment of responses to rows.
    prompts: keys and values of the prompts of `layout`.
    cache: keys and values of the responses, or None if there are none.
    recent: keys and values of the last chunk, which are not in `cache`; None
      before the first chunk.
  """

  layout: row_scheduler.Layout
  prompts: policy_lib.KeyValues
  cache: kv_cache.Pair | None
  recent: kv_cache.Recent | None = None


class Sampler:
  """Draws rollouts from a policy.

  Every process holds the full rollout in host memory, at 12 bytes per token.
  All processes therefore know which responses have finished, and compute the
  same layout.
  """

  def __init__(
    self,
    policy: policy_lib.Policy,
    mesh: jax.sharding.Mesh,
    *,
    chunk: int = 32,
    max_rows: int = 0,
    gather_weights: bool = False,
    share: bool = True,
    static: bool = False,
  ) -> None:
    """Creates a sampler.

    Args:
      policy: policy to sample from.
      mesh: mesh that rows are split over.
      chunk: C, number of tokens drawn between two checks for finished
        responses.
      max_rows: maximum number of responses that are decoded at the same time,
        while the others wait; at least the size of a group. 0 is no limit.
      gather_weights: gather sharded weights on every device once per call,
        instead of layer by layer for every token.
      share: compute identical response prefixes once, see `dedup`. Applies only
        on a single CPU, and only where it saves time.
      static: keep the layout until all of its responses have finished, as
        static batching does. Serves as a baseline for comparisons.
    """
    self._policy = policy
    self._mesh = mesh
    self._chunk = chunk
    self._max_rows = max_rows
    self._gather_weights = gather_weights
    self._share = share and sharding.is_one_cpu(mesh)
    self._static = static
    self._shapes = row_scheduler.FINE
    if policy.reads_live:
      self._shapes = row_scheduler.COARSE
    self._cast = _make_cast(policy, mesh, gather_weights=gather_weights)
    self._prefill = prefill_lib.make_prefill(policy, mesh, max_rows=max_rows)
    self._decode = decoding.make_decode(policy, mesh)
    self._take_prompts = kv_cache.make_take_prompts(mesh)
    self._cache_mover = kv_cache.CacheMover(policy, mesh, self._shapes)

  def __call__(
    self,
    params: policy_lib.Params,
    prompts: groups.Prompts,
    keys_QG: jax.Array,
    settings: SamplerSettings[np.ndarray],
    *,
    slots: int,
    num_prompts: int | None = None,
    on_ended: rollout_buffer.OnEnded | None = None,
  ) -> groups.Rollout[np.ndarray]:
    """Draws G responses to each prompt.

    Args:
      params: parameters of the policy.
      prompts: Q prompts.
      keys_QG: one random key per response. Token t is drawn with
        `fold_in(key, t)`. A response therefore depends only on its prompt, its
        key and the settings, and not on the rest of the batch or on when it is
        decoded.
      settings: sampling settings.
      slots: R, the maximum number of tokens of a response.
      num_prompts: number of prompts to continue, from the first on. The default
        is all of them. The remaining prompts are padding.
      on_ended: called once for each prompt, as soon as all of its responses
        have finished, while the devices decode other responses.

    Returns:
      The responses, in host arrays.
    """
    num_groups, group_size = keys_QG.shape
    buffer = rollout_buffer.RolloutBuffer(
      (num_groups, group_size),
      slots=slots,
      state_dtype=settings.stop_table.dtype,
      num_prompts=num_prompts,
    )
    on_ended = on_ended or _ignore
    limit = min(int(settings.limit), slots)
    settings = settings._replace(limit=np.array(limit, np.int32))
    call, drawn = self._start(params, prompts, keys_QG, settings, slots=slots)
    rows_B = rollout_buffer.response_indices(
      num_groups, group_size, num_prompts
    )
    buffer.add(rows_B, *jax.device_get(drawn))
    rows = None
    while (unfinished := buffer.unfinished(limit)).size:
      if rows is None:
        rows = self._first_rows(call, unfinished)
      else:
        self._rearrange(call, rows, unfinished)
      rows_B, drawn = self._decode_chunk(call, rows, buffer)
      # The devices decode while the host handles the finished groups.
      buffer.notify(unfinished, on_ended)
      buffer.add(rows_B, *jax.device_get(drawn))
    buffer.notify(unfinished, on_ended)
    return buffer.rollout()

  def _start(
    self,
    params: policy_lib.Params,
    prompts: groups.Prompts,
    keys_QG: jax.Array,
    settings: SamplerSettings[np.ndarray],
    *,
    slots: int,
  ) -> tuple[_Call, tuple[decoding.Progress, decoding.Drawn]]:
    """Processes the prompts and draws the first tokens.

    Returns:
      The constant parts of the call, and progress and tokens of all responses.
    """
    device_settings = transfers.put_replicated(
      decoding.simplify(settings), self._mesh
    )
    params = self._prepare(params)  # once per call, not once per chunk
    prefilled = self._prefill(params, prompts, keys_QG, device_settings)
    num_groups, group_size = keys_QG.shape
    max_rows = num_groups * group_size
    if self._max_rows:
      max_rows = max(self._max_rows, group_size)
    width = min(self._chunk, slots)
    prompt_slots = prefilled.prompts.keys.shape[3]
    if self._policy.reads_live:
      prompt_slots = self._shapes.capacity(prompt_slots, width)
    call = _Call(
      params=self._policy.unstack(params),
      prompts=prompts,
      keys_QG=keys_QG,
      settings=device_settings,
      prefix=prefilled.prefix,
      prompt_keys_values=prefilled.prompts,
      prompt_slots=prompt_slots,
      limits=row_scheduler.Limits(
        group_size=group_size,
        max_rows=max_rows,
        multiple=sharding.row_shards(self._mesh),
        shapes=self._shapes,
      ),
      width=width,
      slots=slots,
    )
    return call, (prefilled.progress, prefilled.drawn)

  def _prepare(self, params: policy_lib.Params) -> policy_lib.Params:
    """Casts, and if requested gathers, parameters."""
    cast = jax.eval_shape(self._policy.cast, params)
    is_already_cast = _dtypes(params) == _dtypes(cast)
    # A jitted function returns a copy, even of an argument it does not change.
    if is_already_cast and not self._gather_weights:
      return params
    return self._cast(params)

  def _first_rows(self, call: _Call, unfinished: np.ndarray) -> _Rows:
    """Assigns unfinished responses to rows."""
    layout = row_scheduler.pack([], unfinished.tolist(), call.limits)
    return _Rows(
      layout,
      self._prompts_of(call, layout),
      self._cache_mover.empty(layout.rows.size, call.width, call.slots),
    )

  def _rearrange(
    self, call: _Call, rows: _Rows, unfinished: np.ndarray
  ) -> None:
    """Moves unfinished responses to the rows and the cache of the next chunk.

    Args:
      call: constant parts of the call.
      rows: rows of the last chunk; become those of the next one.
      unfinished: indices of the unfinished responses.
    """
    assert rows.recent is not None  # every chunk sets it
    layout = row_scheduler.repack(
      rows.layout, unfinished, call.limits, static=self._static
    )
    if layout is not rows.layout:
      rows.prompts = self._prompts_of(call, layout)
    rows.cache = self._cache_mover.move(
      rows.cache,
      rows.recent,
      rows.layout,
      layout,
      unfinished=unfinished,
      max_start=call.slots,
    )
    rows.recent = None
    rows.layout = layout

  def _prompts_of(
    self, call: _Call, layout: row_scheduler.Layout
  ) -> policy_lib.KeyValues:
    """Returns the keys and values of the prompts of a layout."""
    return self._take_prompts(
      call.prompt_keys_values, layout.prompts, slots=call.prompt_slots
    )

  def _decode_chunk(
    self, call: _Call, rows: _Rows, buffer: rollout_buffer.RolloutBuffer
  ) -> tuple[np.ndarray, tuple[decoding.Progress, decoding.Drawn]]:
    """Starts to decode a chunk.

    Args:
      call: constant parts of the call.
      rows: rows of the chunk; receive its keys and values.
      buffer: responses so far.

    Returns:
      The index of the response that occupies each row, and the progress and
      tokens of the rows. The devices may still be computing these arrays.
    """
    rows_B = rows.layout.rows.reshape(-1)
    progress = buffer.progress_of(rows_B)
    progress_after, drawn, recent = self._decode(
      call.params,
      (*call.prefix, rows.prompts),
      rows.cache,
      progress,
      rows_B,
      call.keys_QG,
      call.settings,
      self._first_equal(call, rows, buffer),
      width=call.width,
    )
    rows.recent = kv_cache.Recent(recent, progress.lengths - 1)
    return rows_B, (progress_after, drawn)

  def _first_equal(
    self, call: _Call, rows: _Rows, buffer: rollout_buffer.RolloutBuffer
  ) -> np.ndarray | None:
    """Returns, for each row, the first row with the same prompt and tokens.

    Equal rows are then computed once, see `dedup`. Returns None if it is faster
    to compute every row.
    """
    if not self._share:
      return None
    rows_B = rows.layout.rows.reshape(-1)
    slots = call.width
    if rows.cache is not None:
      slots += rows.cache[0].shape[3]
    if not dedup.can_save_time(
      call.params, rows.prompts, num_rows=len(rows_B), slots=slots
    ):
      return None
    first_B, running_B = buffer.first_equal(rows_B, call.prompts)
    return first_B if dedup.are_few(first_B, running_B) else None


@functools.partial(jax.jit, static_argnames=('num_groups', 'group_size'))
def response_keys(
  path: tuple[jax.Array | int, ...],
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
    The keys [Q, G], each the key of the path with the row index folded in.
  """
  key = jax.random.key(path[0])
  for number in path[1:]:
    key = jax.random.fold_in(key, number)
  rows = first_group * group_size + jnp.arange(num_groups * group_size)
  keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
  return keys_B.reshape(num_groups, group_size)


def _make_cast(
  policy: policy_lib.Policy, mesh: jax.sharding.Mesh, *, gather_weights: bool
) -> policy_lib.MapParams:
  """Returns the program that casts, and if requested gathers, parameters."""

  @jax.jit
  def cast(params: policy_lib.Params) -> policy_lib.Params:
    params = policy.cast(params)
    if not gather_weights:
      return params
    return jax.lax.with_sharding_constraint(
      params, sharding.shard_gathered(params, mesh)
    )

  return cast


def _dtypes(params: policy_lib.Params) -> list[jnp.dtype]:
  return [x.dtype for x in jax.tree.leaves(params)]


def _ignore(
  which_Q: np.ndarray, tokens_QGR: np.ndarray, lengths_QG: np.ndarray
) -> None:
  pass
