"""Samples responses as text: encodes prompts and decodes rollouts."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sqlm_jax.distributed import transfers
from sqlm_jax.engine import groups, sampler
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import tokenizer
from sqlm_jax.selfplay import batches
from sqlm_jax.text import stopping


class Writer(NamedTuple):
  """A sampler with its tokenizer and settings, for a role or an evaluation.

  Attributes:
    sample: the sampler.
    encode: `prompt -> token ids`, or None if the prompt exceeds the limit.
    decode: `token ids -> text`.
    settings: temperatures, top_p, token limit and stop table.
    slots: R, the capacity of a response in tokens.
    mesh: mesh that the sampler runs on.
  """

  sample: Callable[..., groups.Rollout]
  encode: Callable[[str], list[int] | None]
  decode: Callable[[Sequence[int]], str]
  settings: sampler.SamplerSettings
  slots: int
  mesh: jax.sharding.Mesh


class Responses(NamedTuple):
  """G responses to each of Q prompts, on the host.

  Attributes:
    prompt_ids: token ids of each of the Q prompts.
    rollout: host arrays of all responses, in every process.
    texts: [Q][G], None for the prompts of other processes.
  """

  prompt_ids: Sequence[Sequence[int]]
  rollout: groups.Rollout
  texts: list[list[str] | None]


def make_settings(
  tokens: tokenizer.Tokenizer,
  *,
  temperatures: Sequence[float],
  top_p: float,
  limit: int,
  stop_strings: Sequence[str],
) -> sampler.SamplerSettings:
  """Returns sampler settings for groups of `len(temperatures)` responses.

  Args:
    tokens: the tokenizer.
    temperatures: temperature of each response of a group.
    top_p: cumulative probability of nucleus sampling.
    limit: maximum number of tokens of a response.
    stop_strings: strings and special tokens that end a response.
  """
  # Special tokens add no text, so they stop by id and not by string.
  named = [i for i, text in tokens.special.items() if text in stop_strings]
  table = stopping.stop_table(
    tokens.token_bytes,
    [*tokens.stop_ids, *(i for i in named if i < tokens.vocab_size)],
    tuple(stop_strings),
  )
  return sampler.SamplerSettings(
    temperature=np.array(temperatures, np.float32),
    top_p=np.full(len(temperatures), top_p, np.float32),
    limit=np.int32(limit),
    stop_table=table,
  )


def write(
  writer: Writer,
  params: policy_lib.Params,
  prompts: Sequence[Sequence[int]],
  *,
  path: tuple[int, ...],
  num_rows: int,
  first_row: int = 0,
  own: range | None = None,
  on_text: Callable[[Mapping[int, list[str]]], None] = lambda texts: None,
) -> Responses:
  """Samples a group of responses to every prompt.

  Args:
    writer: sampler, tokenizer and settings.
    params: parameters of the policy.
    prompts: token ids of at least one prompt.
    path: identifies the call; the random keys of the responses derive from it.
    num_rows: number of prompts to pad to, so that the shape does not change.
    first_row: index of the first prompt among all calls that share a path. A
      response therefore does not depend on the number of prompts of a call.
    own: range of the prompts whose responses this process decodes; by default,
      all prompts.
    on_text: called with the responses to own prompts, by index of the prompt,
      as soon as all responses to a prompt have finished and while others are
      still being sampled.

  Returns:
    The responses to all prompts, without padding.
  """
  texts = [None] * len(prompts)
  own = range(len(prompts)) if own is None else own

  def on_ended(which_Q, tokens_QGR, lengths_QG):
    new = {}
    for row, tokens_GR, lengths_G in zip(
      which_Q.tolist(), tokens_QGR, lengths_QG, strict=True
    ):
      if row in own:
        new[row] = texts[row] = [
          writer.decode(tokens[:length].tolist())
          for tokens, length in zip(tokens_GR, lengths_G, strict=True)
        ]
    on_text(new)

  packed = batches.pack_prompts(prompts, num_rows)
  keys_QG = sampler.response_keys(
    path,
    first_row,
    num_groups=num_rows,
    group_size=len(writer.settings.temperature),
  )
  rollout = writer.sample(
    params,
    transfers.put_rows(packed, writer.mesh),
    keys_QG,
    writer.settings,
    slots=writer.slots,
    num_prompts=len(prompts),
    on_ended=on_ended,
  )
  rollout = jax.tree.map(lambda x: x[: len(prompts)], rollout)
  return Responses(prompts, rollout, texts)


def join(written: Sequence[Responses | None]) -> Responses | None:
  """Concatenates the responses of several calls; None if there are none."""
  written = [one for one in written if one is not None]
  if len(written) < 2:
    return written[0] if written else None
  return Responses(
    [ids for one in written for ids in one.prompt_ids],
    jax.tree.map(
      lambda *parts: np.concatenate(parts), *(one.rollout for one in written)
    ),
    [group for one in written for group in one.texts],
  )


def take(written: Responses, rows: Sequence[int]) -> Responses:
  """Returns the responses to some of the prompts.

  Args:
    written: responses.
    rows: indices of the prompts.
  """
  return Responses(
    [written.prompt_ids[row] for row in rows],
    jax.tree.map(lambda x: x[np.asarray(rows)], written.rollout),
    [written.texts[row] for row in rows],
  )
