"""The keys and values of the responses of a sampler call.

A cache holds them between the chunks of decoding, [L, B, K, S, H] each. A
`CacheMover` appends the last chunk to a cache, and moves it to the rows and the
capacity of the next chunk. Its compiled programs are compiled once for each
shape of their arguments.
"""

import functools
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import row_scheduler
from sqlm_jax.models import policy as policy_lib

Pair = tuple[jax.Array, jax.Array]  # keys and values


class TakePrompts(Protocol):
  """Gathers the keys and values of prompts."""

  def __call__(
    self,
    prompts: policy_lib.KeyValues,
    which_A: jax.Array | np.ndarray,
    *,
    slots: int,
  ) -> policy_lib.KeyValues:
    """Returns the keys and values of some prompts.

    Args:
      prompts: keys and values of all Q prompts.
      which_A: indices into the prompts; they may repeat.
      slots: cache slots of the result, at least the number of `prompts`.
    """


class MakeEmpty(Protocol):
  """Creates an empty cache."""

  def __call__(self, rows: int, slots: int) -> Pair:
    """Returns a cache for `rows` rows with `slots` slots each."""


class Store(Protocol):
  """Writes the keys and values of a chunk to a cache."""

  def __call__(
    self,
    cache: Pair | None,
    recent: Pair,
    starts: jax.Array | np.ndarray,
    sources_B: jax.Array | np.ndarray | None,
    *,
    slots: int,
  ) -> Pair:
    """Returns the new cache, [L, B, K, slots, H] each.

    Slots after the end of a response hold arbitrary values.

    Args:
      cache: earlier keys and values, [L, A, K, S, H] each, or None.
      recent: keys and values of the chunk, [L, A, K, C, H] each.
      starts: first cache slot that `recent` is written to, [A], or [] if it is
        the same for all rows.
      sources_B: rows to gather; None keeps all rows in place.
      slots: capacity of the new cache.
    """


class Recent(NamedTuple):
  """The keys and values of the tokens that a chunk processed.

  Attributes:
    pair: keys and values, [L, B, K, C, H] each.
    starts_B: first cache slot of each row that they belong in.
  """

  pair: Pair
  starts_B: np.ndarray


class CacheMover:
  """Moves caches to the rows and the capacity of the next chunk."""

  def __init__(
    self,
    policy: policy_lib.Policy,
    mesh: jax.sharding.Mesh,
    shapes: row_scheduler.Shapes,
  ) -> None:
    """Creates a mover.

    Args:
      policy: policy that is sampled from.
      mesh: mesh that rows are split over.
      shapes: capacities to choose from.
    """
    self._reads_live = policy.reads_live
    self._shapes = shapes
    self._make_empty = make_empty(policy, mesh)
    self._store = make_store(mesh)
    self._store_in_place = make_store(mesh, in_place=True)

  def empty(self, rows: int, width: int, max_start: int) -> Pair | None:
    """Returns the cache of responses without tokens.

    This is None, except if `policy.reads_live`: the empty slots then cost no
    time, and `decode` is not compiled a second time for a call without a cache.

    Args:
      rows: B.
      width: C.
      max_start: last slot at which a chunk may start.
    """
    if not self._reads_live:
      return None
    return self._make_empty(rows, self._shapes.capacity(0, width, max_start))

  def move(
    self,
    cache: Pair | None,
    recent: Recent,
    before: row_scheduler.Layout,
    after: row_scheduler.Layout,
    *,
    unfinished: np.ndarray,
    max_start: int,
  ) -> Pair | None:
    """Returns the cache of the next chunk.

    Args:
      cache: keys and values before the last chunk. The cache is donated if it
        keeps its rows and its capacity.
      recent: keys and values of the last chunk.
      before: layout of the last chunk.
      after: layout of the next chunk.
      unfinished: indices of the unfinished responses.
      max_start: last slot at which a chunk may start.
    """
    width = recent.pair[0].shape[3]
    continues_B = np.isin(before.rows.reshape(-1), unfinished)
    if not continues_B.any():
      return self.empty(after.rows.size, width, max_start)
    # All slots of a chunk are written, even if it stopped early.
    length = recent.starts_B[continues_B].max() + width
    slots = self._shapes.capacity(length, width, max_start)
    recent = recent._replace(
      starts_B=_common_start(recent.starts_B, continues_B)
    )
    if after is before:
      return self._extend(cache, recent, slots=slots)
    sources_B = row_scheduler.sources(before, after)
    return self._gather(cache, recent, sources_B, slots=slots)

  def _extend(self, cache: Pair | None, recent: Recent, *, slots: int) -> Pair:
    """Appends the last chunk, in place if the capacity stays the same."""
    store = self._store
    if cache is not None and cache[0].shape[3] == slots:
      store = self._store_in_place
    return store(cache, recent.pair, recent.starts_B, None, slots=slots)

  def _gather(
    self,
    cache: Pair | None,
    recent: Recent,
    sources_B: np.ndarray,
    *,
    slots: int,
  ) -> Pair:
    """Appends the last chunk and gathers the rows of the new layout."""
    return self._store(
      cache, recent.pair, recent.starts_B, sources_B, slots=slots
    )


def _common_start(starts_B: np.ndarray, selected_B: np.ndarray) -> np.ndarray:
  """Returns the common value of the selected starts, or all if they differ."""
  first, *others = np.unique(starts_B[selected_B])
  return starts_B if others else first


def make_take_prompts(mesh: jax.sharding.Mesh) -> TakePrompts:
  """Returns the program that gathers the prompts of a layout."""

  @functools.partial(jax.jit, static_argnames='slots')
  def take_prompts(
    prompts: policy_lib.KeyValues, which_A: jax.Array, *, slots: int
  ) -> policy_lib.KeyValues:
    padding = [(0, 0)] * prompts.keys.ndim
    padding[3] = (0, slots - prompts.keys.shape[3])

    def take(x: jax.Array) -> jax.Array:
      return sharding.constrain_cache(jnp.pad(x[:, which_A], padding), mesh)

    return policy_lib.KeyValues(
      take(prompts.keys), take(prompts.values), prompts.lengths[which_A]
    )

  return take_prompts


def make_empty(policy: policy_lib.Policy, mesh: jax.sharding.Mesh) -> MakeEmpty:
  """Returns the program that creates an empty cache."""

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def empty(rows: int, slots: int) -> Pair:
    keys, values, _ = policy.init_cache(rows, slots)
    return (
      sharding.constrain_cache(keys, mesh),
      sharding.constrain_cache(values, mesh),
    )

  return empty


def make_store(mesh: jax.sharding.Mesh, *, in_place: bool = False) -> Store:
  """Returns the program that writes a chunk to a cache.

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
  def store(
    cache: Pair | None,
    recent: Pair,
    starts: jax.Array,
    sources_B: jax.Array | None,
    *,
    slots: int,
  ) -> Pair:
    if sources_B is not None:
      cache, recent = jax.tree.map(lambda x: x[:, sources_B], (cache, recent))
      starts = starts if starts.ndim == 0 else starts[sources_B]

    def join(old: jax.Array | None, new: jax.Array) -> jax.Array:
      joined = _resize(old, new, slots)
      joined = _write(joined, new, starts)
      return sharding.constrain_cache(joined, mesh)

    old_keys, old_values = cache or (None, None)
    keys, values = recent
    return join(old_keys, keys), join(old_values, values)

  return store


def _resize(old: jax.Array | None, new: jax.Array, slots: int) -> jax.Array:
  """Returns `old`, or zeros like `new` if it is None, with `slots` slots."""
  *outer, _, head_width = new.shape
  resized = jnp.zeros((*outer, slots, head_width), new.dtype)
  if old is None:
    return resized
  return jax.lax.dynamic_update_slice_in_dim(
    resized, old[:, :, :, :slots], 0, axis=3
  )


def _write(cache: jax.Array, new: jax.Array, starts: jax.Array) -> jax.Array:
  """Writes `new` to the slots of the cache from `starts`, [B] or [], on."""
  write = jax.lax.dynamic_update_slice_in_dim
  if starts.ndim:
    by_row = functools.partial(write, axis=2)
    return jax.vmap(by_row, (1, 1, 0), 1)(cache, new, starts)
  # Faster on a CPU than a write per row (measured in
  # docs/dev/speed_notes.md, "What was tried").
  return write(cache, new, starts, axis=3)
