"""Responses to a prompt that are equal so far are read once, not each.

The answers to a question begin alike, and for ending alike the vote pays: of
the quickstart's 160 answers in its first step 69 are different, of the 232 in
its last one 33. Rows that continue the same prompt with the same tokens have
the same distribution of the next, whether it stands once or twice in the batch.
So the first of them is read, and all draw from it, each with its own key. A row
that has ended is not read either.

On a CPU a token's cost grows with the rows. Where it is reading the weights
that takes the time, on an accelerator, fewer rows would gain little.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.models import policy as policy_lib

# With fewer rows there is too little to gain for a program of its own.
FEWEST = 64
# They are read in blocks of this part of the rows, and no more than so many.
_PART, _BLOCKS = 8, 3
# Keys and values are copied for it. Not those larger than this part of the
# weights, which for SmolLM2-135M is 244 tokens.
_COPIED = 1 / 48

# (last_B, context) -> logits [B, V], keys and values [L, B, K, 1, H]
ReadNext = Callable[
  [jax.Array, tuple[policy_lib.KeyValues, ...]],
  tuple[jax.Array, jax.Array, jax.Array],
]


def firsts(prompts_B: np.ndarray, written_BR: np.ndarray) -> np.ndarray:
  """For each row the first one that is equal so far, [B].

  Args:
    prompts_B: whose prompt it continues; negative, nobody's.
    written_BR: the tokens so far, behind them a number that is no token.
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
  """Whether to look for equal rows at all; shapes alone decide.

  Args:
    params: what a token reads.
    prompts: of the rows.
    num_rows: B.
    slots: room for what each has written.
  """
  layers, _, heads, prompt_slots, width = prompts.keys.shape
  token_bytes = 2 * layers * heads * width * prompts.keys.dtype.itemsize
  weights = sum(x.nbytes for x in jax.tree.leaves(params))
  copied = (prompt_slots + slots) * token_bytes
  return num_rows >= FEWEST and copied <= _COPIED * weights


def few(first_B: jax.Array, running_B: jax.Array) -> jax.Array:
  """Whether so few of the rows have to be read that it pays; on host, too."""
  size = -(-len(first_B) // _PART)
  return _wanted(first_B, running_B).sum() <= _BLOCKS * size


def still_equal(first_B: jax.Array, drawn_B: jax.Array) -> jax.Array:
  """The same once each row has drawn another token."""
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
  """`read_next(last_B, context)`, as far as it matters to running rows.

  There are `few` to be read.

  Args:
    read_next: reads one token a row.
    last_B: that token.
    context: what stands before it; rows are shared, see `policy.Policy`.
    first_B: the first of the rows that are equal, `last_B` included.
    running_B: whose result counts. That of others means nothing.
  """
  num_rows = len(last_B)
  size = -(-num_rows // _PART)
  wanted_B = _wanted(first_B, running_B)
  (wanted_M,) = jnp.nonzero(wanted_B, size=_BLOCKS * size, fill_value=0)
  axes = (0, 1, 1)  # where the rows are

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
  """What stands before some of the rows; what all share stays as it is."""

  def take(part):
    size = len(part.lengths)
    if size == 1:
      return part
    own = rows // (num_rows // size)
    return policy_lib.KeyValues(
      part.keys[:, own], part.values[:, own], part.lengths[own]
    )

  return tuple(map(take, context))
