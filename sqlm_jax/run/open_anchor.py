"""Samples the answers of the anchor from the initial model."""

from collections.abc import Callable, Sequence

from sqlm_jax import display
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import sharding, transfers
from sqlm_jax.engine import policy_loss
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.selfplay import (
  anchor,
  batches,
  packing_plan,
  random_streams,
  responses,
)
from sqlm_jax.tasks import base, question_files
from sqlm_jax.text import prompts


def read_prompts(
  config: config_lib.Config,
  task: base.Task,
  wrap: Callable[[str], str],
  encode: Callable[[str], list[int] | None],
) -> tuple[list[int], ...]:
  """Reads the prompts of the anchor, as token ids; () without an anchor.

  Args:
    config: config of the run.
    task: makes the solver's prompts.
    wrap: converts a filled template to the prompt, as a chat template does.
    encode: converts a prompt to token ids, None if it is too long.

  Raises:
    ValueError: if a prompt is too long, or the file has another format.
    FileNotFoundError: if there is no such file.
  """
  c = config.anchor
  if not c.questions:
    return ()
  encoded = []
  for question in question_files.read_questions(
    c.questions, 'anchor.questions'
  ):
    prompt = task.solver_prompts(question)[0]
    if c.template:
      prompt = wrap(prompts.fill(c.template, question=question))
    ids = encode(prompt)
    if ids is None:
      raise ValueError(
        f'anchor.questions={c.questions!r}: expected prompts of 1 to '
        f'{config.sampler.max_prompt_tokens} tokens '
        f'(sampler.max_prompt_tokens), not that of {question[:80]!r}'
      )
    encoded.append(ids)
  return tuple(encoded)


def open_anchor(
  config: config_lib.Config,
  prompt_ids: Sequence[list[int]],
  sampler: responses.TextSampler,
  policy: policy_lib.Policy,
  initial_params: policy_lib.Params,
) -> anchor.Anchor:
  """Samples answers from the initial model, with their log-probabilities.

  Every process must call this function. A run that is resumed samples the same
  answers again.

  Args:
    config: config of the run.
    prompt_ids: the prompts, from `read_prompts`.
    sampler: samples the answers.
    policy: the policy that is trained. It computes the log-probabilities, so
      that the KL is 0 before the first update, whatever the sampler's dtype.
    initial_params: parameters of the initial model.
  """
  total = len(prompt_ids)
  size = min(config.evaluation.batch_questions, total)
  parts = []
  with display.progress('Answering the prompts of the anchor', total) as shown:
    for first in range(0, total, size):
      shown(first, total)
      parts.append(
        responses.sample(
          sampler,
          initial_params,
          prompt_ids[first : first + size],
          path=random_streams.key_path(
            config.seed, 0, random_streams.Stream.ANCHOR
          ),
          num_rows=size,
          first_row=first,
          local_rows=range(0),  # no process needs their texts
        )
      )
    shown(total, total)
  sampled = responses.join(parts)
  assert sampled is not None  # a file of questions is not empty
  answers = anchor.scored(sampled)
  layout = packing_plan.Layout(
    config.optimizer.groups_per_microbatch, sharding.row_shards(sampler.mesh)
  )
  logprobs = policy_loss.make_logprobs(
    policy,
    sampler.mesh,
    chunk=config.loss.logits_chunk,
    groups_per_microbatch=config.optimizer.groups_per_microbatch,
  )
  texts = transfers.put_rows(
    batches.texts_to_evaluate(answers, layout), sampler.mesh
  )
  logprobs_QGR = transfers.fetch(logprobs(texts, initial_params))[:total]
  return anchor.make_anchor(answers, logprobs_QGR)
