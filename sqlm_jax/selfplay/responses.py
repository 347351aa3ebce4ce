"""Samples responses as text: encodes prompts and decodes rollouts."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from sqlm_jax.distributed import transfers
from sqlm_jax.engine import groups, rollout_buffer, sampler
from sqlm_jax.game import vote
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import tokenizer
from sqlm_jax.selfplay import batches
from sqlm_jax.text import stopping


class SampleTokens(Protocol):
  """Samples the tokens of G responses to each prompt, see `sampler`."""

  def __call__(
    self,
    params: policy_lib.Params,
    prompts: groups.Prompts,
    keys_QG: jax.Array,
    settings: sampler.SamplerSettings[np.ndarray],
    *,
    slots: int,
    num_prompts: int,
    on_ended: rollout_buffer.OnEnded,
  ) -> groups.Rollout[np.ndarray]:
    """Returns the rollout, as host arrays."""


class OnTexts(Protocol):
  """Receives the responses to some prompts, by index of the prompt."""

  def __call__(self, texts: Mapping[int, list[str]], /) -> None: ...


def ignore_texts(texts: Mapping[int, list[str]], /) -> None:
  """Ignores the texts; the default of `OnTexts`."""


class TextSampler(NamedTuple):
  """A sampler with its tokenizer and settings, for a role or an evaluation.

  Attributes:
    sample_tokens: the sampler.
    encode: `prompt -> token ids`, or None if the prompt exceeds the limit.
    decode: `token ids -> text`.
    settings: temperatures, top_p, token limit and stop table.
    slots: R, the capacity of a response in tokens.
    mesh: mesh that the sampler runs on.
  """

  sample_tokens: SampleTokens
  encode: Callable[[str], list[int] | None]
  decode: Callable[[Sequence[int]], str]
  settings: sampler.SamplerSettings[np.ndarray]
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
  rollout: groups.Rollout[np.ndarray]
  texts: list[list[str] | None]

  def local_texts(self) -> list[list[str]]:
    """Returns the texts of the prompts that this process has decoded."""
    return [texts for texts in self.texts if texts is not None]

  def rows_of(self, question: int, num_questions: int) -> range:
    """Returns the indices of the prompts that ask a question.

    Args:
      question: index of the question.
      num_questions: number of questions. Each has the same number of prompts,
        which are consecutive.
    """
    variants = len(self.prompt_ids) // num_questions
    return range(question * variants, (question + 1) * variants)


def make_settings(
  tokens: tokenizer.Tokenizer,
  *,
  temperatures: Sequence[float],
  top_p: float,
  limit: int,
  stop_strings: Sequence[str],
) -> sampler.SamplerSettings[np.ndarray]:
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
    limit=np.array(limit, np.int32),
    stop_table=table,
  )


def sample(
  text_sampler: TextSampler,
  params: policy_lib.Params,
  prompts: Sequence[Sequence[int]],
  *,
  path: tuple[int, ...],
  num_rows: int,
  first_row: int = 0,
  local_rows: range | None = None,
  on_texts: OnTexts = ignore_texts,
) -> Responses:
  """Samples a group of responses to every prompt.

  Args:
    text_sampler: sampler, tokenizer and settings.
    params: parameters of the policy.
    prompts: token ids of at least one prompt.
    path: identifies the call; the random keys of the responses derive from it,
      see `random_streams.key_path`.
    num_rows: number of prompts to pad to, so that the shape does not change.
    first_row: index of the first prompt among all calls that share a path. A
      response therefore does not depend on the number of prompts of a call.
    local_rows: range of the prompts whose responses this process decodes; by
      default, all prompts.
    on_texts: called with the responses to local prompts as soon as all
      responses to a prompt have finished, while others are still being sampled.

  Returns:
    The responses to all prompts, without padding.
  """
  texts: list[list[str] | None] = [None] * len(prompts)
  local_rows = range(len(prompts)) if local_rows is None else local_rows

  def decode_ended(
    which_Q: np.ndarray, tokens_QGR: np.ndarray, lengths_QG: np.ndarray
  ) -> None:
    decoded = {}
    for row, tokens_GR, lengths_G in zip(
      which_Q.tolist(), tokens_QGR, lengths_QG, strict=True
    ):
      if row in local_rows:
        decoded[row] = texts[row] = [
          text_sampler.decode(tokens[:length].tolist())
          for tokens, length in zip(tokens_GR, lengths_G, strict=True)
        ]
    on_texts(decoded)

  temperatures_G = text_sampler.settings.temperature
  assert temperatures_G is not None  # as `make_settings` returns them
  packed = batches.pack_prompts(prompts, num_rows)
  keys_QG = sampler.response_keys(
    path,
    first_row,
    num_groups=num_rows,
    group_size=len(temperatures_G),
  )
  rollout = text_sampler.sample_tokens(
    params,
    transfers.put_rows(packed, text_sampler.mesh),
    keys_QG,
    text_sampler.settings,
    slots=text_sampler.slots,
    num_prompts=len(prompts),
    on_ended=decode_ended,
  )
  rollout = jax.tree.map(lambda x: x[: len(prompts)], rollout)
  return Responses(prompts, rollout, texts)


def join(parts: Sequence[Responses | None]) -> Responses | None:
  """Concatenates the responses of several calls; None if there are none."""
  present = [part for part in parts if part is not None]
  if len(present) < 2:
    return present[0] if present else None
  return Responses(
    [ids for part in present for ids in part.prompt_ids],
    jax.tree.map(
      lambda *arrays: np.concatenate(arrays),
      *(part.rollout for part in present),
    ),
    [group for part in present for group in part.texts],
  )


def take(responses: Responses, rows: Sequence[int]) -> Responses:
  """Returns the responses to some of the prompts.

  Args:
    responses: responses to all prompts.
    rows: indices of the prompts.
  """
  return Responses(
    [responses.prompt_ids[row] for row in rows],
    jax.tree.map(lambda x: x[np.asarray(rows)], responses.rollout),
    [responses.texts[row] for row in rows],
  )


def likelihoods(
  responses: Responses | None, question: int, num_questions: int
) -> list[float]:
  """Computes the likelihood of each answer to a question.

  Args:
    responses: answers to all questions, None if there are none.
    question: index of the question.
    num_questions: number of questions.

  Returns:
    The likelihoods of the answers to all prompts of the question, see
    `vote.likelihood`.
  """
  if responses is None:
    return []
  rollout = responses.rollout
  return [
    vote.likelihood(float(logprobs_R[:length].sum()), length)
    for row in responses.rows_of(question, num_questions)
    for logprobs_R, length in zip(
      rollout.logprobs[row], rollout.lengths[row].tolist(), strict=True
    )
  ]
