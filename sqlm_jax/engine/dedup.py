"""Deduplication of decoding rows: identical prefixes are computed once.

The answers to a question often begin with the same tokens, and the majority
vote rewards identical answers. In the first step of the quickstart, 69 of 160
answers are distinct; in its last step, 33 of 232 are. Rows that continue the
same prompt with the same tokens have the same next-token distribution, also if
the prompt occurs more than once in the batch. Only the first of these rows is
computed, and every row draws from its distribution with its own key. Rows of
finished responses are not computed either.

On a CPU, the cost of a token grows with the number of rows. On an accelerator,
where loading the weights dominates, fewer rows would save little.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.models import policy as policy_lib

# With fewer rows, the savings do not justify compiling a separate program.
FEWEST = 64
# A block is 1 / _PART of the rows, and at most _BLOCKS blocks are computed.
_PART, _BLOCKS = 8, 3
# Gathering a row copies its keys and values. Their size is limited to this
# fraction of the weights, which is 244 tokens for SmolLM2-135M.
_COPIED = 1 / 48

# (last_B, context) -> logits [B, V], keys and values [L, B, K, 1, H] each
ReadNext = Callable[
  [jax.Array, tuple[policy_lib.KeyValues, ...]],
  tuple[jax.Array, jax.Array, jax.Array],
]


def firsts(prompts_B: np.ndarray, written_BR: np.ndarray) -> np.ndarray:
  """Finds, for each row, the first row with the same prompt and tokens, [B].

  Args:
    prompts_B: index of the prompt of each row; negative for an empty row, which
      equals no other row.
    written_BR: tokens drawn so far, padded with a value that is not a token.
  """
  nobody_B = -1 - np.arange(len(prompts_B))
  prompts_B = np.where(prompts_B < 0, nobody_B, prompts_B)
  _, first_U, which_B = np.unique(
    np.column_stack([prompts_B, written_BR]),
    axis=0,
    return_index=True,
    return_inverse=True,
  )
  return first_U[which_B.reshape(-1)]


def pays(
  params: policy_lib.Params,
  prompts: policy_lib.KeyValues,
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
  return num_rows >= FEWEST and copied <= _COPIED * weights


def few(first_B: jax.Array, running_B: jax.Array) -> jax.Array:
  """Returns True if few enough rows are distinct; works on the host as well."""
  size = -(-len(first_B) // _PART)
  return _wanted(first_B, running_B).sum() <= _BLOCKS * size


def still_equal(first_B: jax.Array, drawn_B: jax.Array) -> jax.Array:
  """Updates `first_B` after each row has drawn another token."""
  same_BB = first_B[:, None] == first_B[None, :]
  same_BB &= drawn_B[:, None] == drawn_B[None, :]
  return jnp.argmax(same_BB, axis=1)


def read(
  read_next: ReadNext,
  last_B: jax.Array,
  context: tuple[policy_lib.KeyValues, ...],
  first_B: jax.Array,
  running_B: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes `read_next(last_B, context)` for the distinct running rows only.

  The number of these rows must be small enough for `few` to be True.

  Args:
    read_next: function that processes one token per row.
    last_B: token to process in each row.
    context: segments before the token; their rows are shared by consecutive
      rows of the batch, see `policy.Policy`.
    first_B: first row that is equal to each row, including `last_B`.
    running_B: True for rows whose results are used. The results of other rows
      are arbitrary.

  Returns:
    The results of `read_next` for all rows: logits, keys and values.
  """
  num_rows = len(last_B)
  size = -(-num_rows // _PART)
  wanted_B = _wanted(first_B, running_B)
  (wanted_M,) = jnp.nonzero(wanted_B, size=_BLOCKS * size, fill_value=0)
  axes = (0, 1, 1)  # the row axis of logits, keys and values

  def read_block(i, found):
    rows = jax.lax.dynamic_slice_in_dim(wanted_M, i * size, size)
    part = read_next(last_B[rows], _of_rows(context, rows, num_rows))
    return tuple(
      jax.lax.dynamic_update_slice_in_dim(whole, new, i * size, axis)
      for whole, new, axis in zip(found, part, axes, strict=True)
    )

  nothing = tuple(
    jnp.zeros((*x.shape[:axis], _BLOCKS * size, *x.shape[axis + 1 :]), x.dtype)
    for x, axis in zip(
      jax.eval_shape(read_next, last_B, context), axes, strict=True
    )
  )
  blocks = -(-jnp.sum(wanted_B) // size)
  found = jax.lax.fori_loop(0, blocks, read_block, nothing)
  place_B = (jnp.cumsum(wanted_B) - 1)[first_B]
  return tuple(
    jnp.take(x, place_B, axis, mode='clip')
    for x, axis in zip(found, axes, strict=True)
  )


def _wanted(first_B: jax.Array, running_B: jax.Array) -> jax.Array:
  return running_B & (first_B == np.arange(len(first_B)))


def _of_rows(
  context: tuple[policy_lib.KeyValues, ...], rows: jax.Array, num_rows: int
) -> tuple[policy_lib.KeyValues, ...]:
  """Gathers the context of some rows; a segment shared by all is unchanged."""

  def take(part):
    size = len(part.lengths)
    if size == 1:
      return part
    own = rows // (num_rows // size)
    return policy_lib.KeyValues(
      part.keys[:, own], part.values[:, own], part.lengths[own]
    )

  return tuple(map(take, context))
