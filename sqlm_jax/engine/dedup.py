"""Deduplication of decoding rows: identical prefixes are computed once.

The answers to a question often begin with the same tokens, and the majority
vote rewards identical answers. In the first step of the quickstart, 69 of 160
answers are distinct; in its last step, 33 of 232 are. Rows that continue the
same prompt with the same tokens have the same next-token distribution, also if
the prompt occurs more than once in the batch. Only the first of these rows is
computed, and every row draws from its distribution with its own key. Rows of
finished responses are not computed either.

On a CPU, the cost of a token grows with the number of rows. On an accelerator,
where loading the weights dominates, fewer rows would save little. The sampler
therefore uses this module on a single CPU only, and never with `share=False`.

U here is the number of distinct rows.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import integers

# With fewer rows, the savings do not justify compiling a separate program.
MIN_ROWS = 64
# A block is 1 / _BLOCKS_PER_BATCH of the rows, and at most _MAX_BLOCKS blocks
# are computed.
_BLOCKS_PER_BATCH, _MAX_BLOCKS = 8, 3
# Gathering a row copies its keys and values. Their size is limited to this
# fraction of the weights, which is 244 tokens for SmolLM2-135M.
_MAX_COPIED = 1 / 48


class ReadNext(Protocol):
  """Processes one token per row."""

  def __call__(
    self, last_B: jax.Array, context: tuple[policy_lib.KeyValues, ...]
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns logits [B, V], and keys and values [L, B, K, 1, H] each."""


def first_equal(prompts_B: np.ndarray, drawn_BR: np.ndarray) -> np.ndarray:
  """Finds, for each row, the first row with the same prompt and tokens, [B].

  Args:
    prompts_B: index of the prompt of each row; negative for an empty row, which
      equals no other row.
    drawn_BR: tokens drawn so far, padded with a value that is not a token.
  """
  unique_B = -1 - np.arange(len(prompts_B))
  prompts_B = np.where(prompts_B < 0, unique_B, prompts_B)
  _, first_U, which_B = np.unique(
    np.column_stack([prompts_B, drawn_BR]),
    axis=0,
    return_index=True,
    return_inverse=True,
  )
  return first_U[which_B.reshape(-1)]


def can_save_time(
  params: policy_lib.Params,
  prompts: policy_lib.KeyValues,
  *,
  num_rows: int,
  slots: int,
) -> bool:
  """Returns True if deduplication can save time, judging by shapes alone.

  Args:
    params: parameters that are read for every token.
    prompts: keys and values of the rows' prompts.
    num_rows: B.
    slots: cache slots per row for the response.
  """
  layers, _, heads, prompt_slots, width = prompts.keys.shape
  token_bytes = 2 * layers * heads * width * prompts.keys.dtype.itemsize
  weights = sum(x.nbytes for x in jax.tree.leaves(params))
  copied = (prompt_slots + slots) * token_bytes
  return num_rows >= MIN_ROWS and copied <= _MAX_COPIED * weights


def are_few(
  first_B: jax.Array | np.ndarray, running_B: jax.Array | np.ndarray
) -> jax.Array | np.bool:
  """Returns True if few enough rows are distinct; works on the host as well."""
  size = integers.ceil_div(len(first_B), _BLOCKS_PER_BATCH)
  return _distinct(first_B, running_B).sum() <= _MAX_BLOCKS * size


def still_equal(first_B: jax.Array, drawn_B: jax.Array) -> jax.Array:
  """Updates `first_B` after each row has drawn another token."""
  same_BB = first_B[:, None] == first_B[None, :]
  same_BB &= drawn_B[:, None] == drawn_B[None, :]
  return jnp.argmax(same_BB, axis=1)


def read_distinct(
  read_next: ReadNext,
  last_B: jax.Array,
  context: tuple[policy_lib.KeyValues, ...],
  *,
  first_B: jax.Array,
  running_B: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes `read_next(last_B, context)` for the distinct running rows only.

  The number of these rows must be small enough for `are_few` to be True.

  Args:
    read_next: function that processes one token per row.
    last_B: token to process in each row.
    context: segments before the token; their rows are shared by consecutive
      rows of the batch, see `policy.Policy`.
    first_B: for each row, the first row with the same prompt and tokens,
      including `last_B`.
    running_B: True for rows whose results are used. The results of other rows
      are arbitrary.

  Returns:
    The results of `read_next` for all rows: logits, keys and values.
  """
  num_rows = len(last_B)
  size = integers.ceil_div(num_rows, _BLOCKS_PER_BATCH)
  distinct_B = _distinct(first_B, running_B)
  (rows_U,) = jnp.nonzero(distinct_B, size=_MAX_BLOCKS * size, fill_value=0)
  axes = (0, 1, 1)  # the row axis of logits, keys and values

  def read_block(
    i: jax.Array, results: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, ...]:
    rows = jax.lax.dynamic_slice_in_dim(rows_U, i * size, size)
    block = read_next(last_B[rows], _take_rows(context, rows, num_rows))
    return tuple(
      jax.lax.dynamic_update_slice_in_dim(result, new, i * size, axis)
      for result, new, axis in zip(results, block, axes, strict=True)
    )

  def zeros_like(x: jax.ShapeDtypeStruct, axis: int) -> jax.Array:
    shape = (*x.shape[:axis], _MAX_BLOCKS * size, *x.shape[axis + 1 :])
    return jnp.zeros(shape, x.dtype)

  shapes = jax.eval_shape(read_next, last_B, context)
  zeros = tuple(map(zeros_like, shapes, axes))
  num_blocks = integers.ceil_div(jnp.sum(distinct_B), size)
  results = jax.lax.fori_loop(0, num_blocks, read_block, zeros)
  index_B = (jnp.cumsum(distinct_B) - 1)[first_B]
  logits, keys, values = (
    jnp.take(x, index_B, axis, mode='clip')
    for x, axis in zip(results, axes, strict=True)
  )
  return logits, keys, values


def _distinct(
  first_B: jax.Array | np.ndarray, running_B: jax.Array | np.ndarray
) -> jax.Array | np.ndarray:
  return running_B & (first_B == np.arange(len(first_B)))


def _take_rows(
  context: tuple[policy_lib.KeyValues, ...], rows: jax.Array, num_rows: int
) -> tuple[policy_lib.KeyValues, ...]:
  """Gathers the context of some rows; a segment shared by all is unchanged."""

  def take(segment: policy_lib.KeyValues) -> policy_lib.KeyValues:
    size = len(segment.lengths)
    if size == 1:
      return segment
    of_rows = rows // (num_rows // size)
    return policy_lib.KeyValues(
      segment.keys[:, of_rows],
      segment.values[:, of_rows],
      segment.lengths[of_rows],
    )

  return tuple(map(take, context))
