"""Prepares the samplers of a run from its config."""

import functools
import itertools
from collections.abc import Sequence

import jax

from sqlm_jax.config import schema as config_lib
from sqlm_jax.engine import sampler
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import tokenizer
from sqlm_jax.selfplay import responses
from sqlm_jax.tasks import base


def open_samplers(
  config: config_lib.Config,
  *,
  task: base.Task,
  tokens: tokenizer.Tokenizer,
  policy: policy_lib.Policy,
  mesh: jax.sharding.Mesh,
) -> dict[str, responses.TextSampler]:
  """Returns the samplers of the roles and of other purposes by name.

  Args:
    config: config of the run.
    task: strings that end a question or an answer.
    tokens: tokenizer of the model.
    policy: policy to sample from.
    mesh: mesh that the samplers run on.
  """
  sample_tokens = sampler.Sampler(
    policy,
    mesh,
    chunk=config.sampler.chunk,
    max_rows=config.sampler.max_rows,
    gather_weights=config.sampler.gather_weights,
  )
  limit = config.sampler.max_prompt_tokens
  is_chat = config.task.style == 'chat'

  def encode(prompt: str) -> list[int] | None:
    # Only a chat template may contain special tokens. The task rejects model
    # output that contains them.
    ids = tokens.encode(prompt, allow_special=is_chat)
    if not ids:
      return None
    if not is_chat:
      ids = [*tokens.prefix_ids, *ids]  # a chat template adds the prefix itself
    return ids if len(ids) <= limit else None

  def make(
    temperatures: Sequence[float],
    *,
    top_p: float,
    max_tokens: int,
    stop: Sequence[str],
  ) -> responses.TextSampler:
    settings = responses.make_settings(
      tokens,
      temperatures=temperatures,
      top_p=top_p,
      limit=max_tokens,
      stop_strings=stop,
    )
    return responses.TextSampler(
      sample_tokens, encode, tokens.decode, settings, max_tokens, mesh
    )

  p, s, v, e = config.proposer, config.solver, config.vote, config.evaluation
  answers = functools.partial(
    make, top_p=s.top_p, max_tokens=s.max_tokens, stop=task.solver_stop
  )

  def cycle_temperatures(count: int) -> list[float]:
    temperatures = itertools.cycle(s.temperatures or (s.temperature,))
    return list(itertools.islice(temperatures, count))

  samplers = {
    'proposer': make(
      [p.temperature] * p.group_size,
      top_p=p.top_p,
      max_tokens=p.max_tokens,
      stop=task.proposer_stop,
    ),
    # A group is divided among the prompts that ask the same question.
    'solver': answers(
      cycle_temperatures(config.num_answers // config.num_prompts)
    ),
    # The first answer of a group is greedy; the others are sampled.
    'evaluation': answers(
      [0.0] + [e.temperature] * (e.samples * e.seeds), top_p=e.top_p
    ),
  }
  if v.earlier_answers:
    samplers['voter'] = answers(cycle_temperatures(v.earlier_answers))
  if config.anchor.questions:
    samplers['anchor'] = make(
      [1.0] * config.anchor.answers,
      top_p=1.0,  # samples of the whole distribution estimate its KL
      max_tokens=s.max_tokens,
      stop=task.solver_stop,
    )
  if config.probe.every:
    samplers['probe'] = answers(
      [e.temperature] * config.probe.answers, top_p=e.top_p
    )
  return samplers
