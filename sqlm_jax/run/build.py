"""Assembles the parts of a run from its config."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
import transformers
from etils import epath

from sqlm_jax.config import program_schema, task_schema
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import critic, learner, optimizer, policy_loss
from sqlm_jax.game import repetition
from sqlm_jax.models import layers
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import tokenizer
from sqlm_jax.run import (
  chat_date,
  evaluation_sets,
  open_anchor,
  open_gate,
  open_model,
  open_rewards,
  open_samplers,
)
from sqlm_jax.sandbox import sandbox
from sqlm_jax.selfplay import kinds, responses, step_types
from sqlm_jax.tasks import base, coding, prompt_ends, prompted, question_files


class Parts(NamedTuple):
  """The parts of a run that do not depend on its train states.

  Attributes:
    config: Config of the run.
    mesh: Device mesh.
    tokens: Tokenizer.
    policy: Functions of the model, as used for training.
    hf_config: Hugging Face config of the model.
    generation: Hugging Face generation config of the model.
    lora: Settings of the adapters that are trained instead of the model's
      parameters, None if all parameters are trained.
    load_params: Loads the model's parameters in a dtype.
    model_path: File or directory of the model, None if it is random.
    optimizer: Optimizer of the policy.
    critic_optimizer: Optimizer of the critic, None without a critic.
    task: Prompts, parsers and checker of the task.
    sets: Returns an evaluation set, which is read on first use.
    questions: Fixed questions, () if the proposer generates the questions.
    samplers: Samplers of the two roles, of 'evaluation', of 'voter' if earlier
      solvers vote, and of 'probe' and 'anchor' if there is one.
    state_names: Name of the TrainState of each role, and of 'voter' if earlier
      solvers vote.
    anchor_prompts: Token ids of the prompts of the anchor, () without one.
  """

  config: config_lib.Config
  mesh: jax.sharding.Mesh
  tokens: tokenizer.Tokenizer
  policy: policy_lib.Policy
  hf_config: transformers.PretrainedConfig
  generation: dict[str, Any]
  lora: layers.Lora | None
  load_params: open_model.LoadParams
  model_path: pathlib.Path | None
  optimizer: optax.GradientTransformation
  critic_optimizer: optax.GradientTransformation | None
  task: base.Task
  sets: evaluation_sets.FindSet
  questions: tuple[str, ...]
  samplers: dict[str, responses.TextSampler]
  state_names: dict[str, str]
  anchor_prompts: tuple[list[int], ...] = ()


def build(
  config: config_lib.ConfigLike, workdir: epath.PathLike | None = None
) -> Parts:
  """Opens the model and prepares everything that does not need a train state.

  Args:
    config: Config of the run.
    workdir: Directory of the run, None without a run. The date of the run is
      read from it, see `chat_date`.

  Raises:
    ValueError: If the model, the mesh or a prompt does not fit the config.
    FileNotFoundError: If there is no model at the path.
  """
  config = config_lib.of(config)
  mesh = sharding.make_mesh(
    {axis: getattr(config.mesh, axis) for axis in sharding.AXES}
  )
  questions = ()
  if config.task.questions:
    questions = question_files.read_questions(config.task.questions)
  opened = open_model.open_model(config, mesh)
  tokens = opened.tokens
  config = chat_date.set_date(config, tokens, workdir)
  task = _make_task(config, tokens)
  if config.task.style == 'plain':  # a chat template adds its own ending
    prompt_ends.warn(_plain_templates(config.task), tokens.encode)
  samplers = open_samplers.open_samplers(
    config,
    task=task,
    tokens=tokens,
    policy=opened.sampling_policy,
    mesh=mesh,
  )
  for topic in config.task.topics:
    if samplers['proposer'].encode(task.proposer_prompt(topic)) is None:
      raise ValueError(
        f'sampler.max_prompt_tokens={config.sampler.max_prompt_tokens}: '
        f'too small for the proposer prompt of topic {topic!r}'
      )
  critic_optimizer = None
  if config.advantage.uses_critic:
    critic_optimizer = optimizer.make_optimizer(
      dataclasses.replace(
        config.optimizer, learning_rate=config.critic.learning_rate
      )
    )
  return Parts(
    config=config,
    mesh=mesh,
    tokens=tokens,
    policy=opened.policy,
    hf_config=opened.hf_config,
    generation=opened.generation,
    lora=open_model.lora_of(config),
    load_params=opened.load_params,
    model_path=opened.path,
    optimizer=optimizer.make_optimizer(config.optimizer),
    critic_optimizer=critic_optimizer,
    task=task,
    sets=functools.cache(
      functools.partial(evaluation_sets.from_config, config, task)
    ),
    questions=questions,
    samplers=samplers,
    state_names=_state_names(config),
    anchor_prompts=open_anchor.read_prompts(
      config, task, _make_wrap(config.task, tokens), samplers['solver'].encode
    ),
  )


def _plain_templates(task: task_schema.Task) -> dict[str, tuple[str, ...]]:
  """Returns the templates of plain prompts by config key."""
  templates = {
    'task.proposer_prompt': (task.proposer_prompt,),
    'task.solver_prompt': (task.solver_prompt,),
    'task.solver_variants': task.solver_variants,
  }
  if task.questions:  # the proposer is not used
    del templates['task.proposer_prompt']
  return templates


def check(parts: Parts) -> None:
  """Raises ValueError if `parts` is not a `Parts`, for example a config."""
  if not isinstance(parts, Parts):
    raise ValueError(
      f'parts: expected build.build(config), not a {type(parts).__name__}'
    )


def _state_names(config: config_lib.Config) -> dict[str, str]:
  shared = config.policy.shared
  names = {role: 'policy' if shared else role for role in step_types.ROLES}
  if config.vote.earlier_answers:
    has_average = config.policy.average_decay > 0
    names['voter'] = step_types.AVERAGE if has_average else 'earlier'
  return names


def make_game(parts: Parts) -> step_types.GameSetup:
  """Builds the constant arguments of `self_play_step`.

  It loads the parameters of the reference policy if there is a KL penalty.
  """
  c = parts.config
  base_params = {}
  if parts.lora:
    base_params = parts.load_params(c.model.dtype)
  initial_params = None
  if c.loss.kl_coef and c.loss.kl_reference == 'initial':
    # Without its adapters, the model is the initial model.
    initial_params = base_params or parts.load_params(c.model.dtype)
  anchor = None
  if parts.anchor_prompts:
    anchor = open_anchor.open_anchor(
      c,
      parts.anchor_prompts,
      parts.samplers['anchor'],
      parts.policy,
      initial_params or base_params or parts.load_params(c.model.dtype),
    )
  train_step = learner.make_train_step(
    parts.policy,
    parts.optimizer,
    parts.mesh,
    policy_loss.LossSettings(
      clip_ratio=c.loss.clip_ratio,
      clip_ratio_high=c.loss.clip_ratio_high or None,
      dual_clip=c.loss.dual_clip or None,
      ratio_level=c.loss.ratio_level,
      kl_coef=c.loss.kl_coef if c.loss.kl_placement == 'loss' else 0.0,
      kl_estimator=c.loss.kl_estimator,
      entropy_coef=c.loss.entropy_coef,
      logits_chunk=c.loss.logits_chunk,
    ),
    groups_per_microbatch=c.optimizer.groups_per_microbatch,
    max_update_kl=c.optimizer.max_update_kl,
    anchor_kl_coef=c.anchor.kl_coef,
  )
  skill = open_gate.open_skill(c.proposer.kinds)
  return step_types.GameSetup(
    config=c,
    # A group whose advantages are all 0 has a gradient if one of these applies.
    keep_neutral=bool(
      c.loss.kl_coef or c.loss.entropy_coef or c.advantage.uses_critic
    ),
    task=parts.task,
    questions=parts.questions,
    gate=open_gate.open_gate(parts.config, parts.sets),
    skill=skill,
    samplers=parts.samplers,
    state_names=parts.state_names,
    train_step=train_step,
    critic=_make_critic(parts),
    initial_params=initial_params,
    base_params=base_params,
    mesh=parts.mesh,
    reward_functions=open_rewards.open_rewards(c),
    anchor=anchor,
    kinds_of=kinds.KindsOf(skill),
  )


def _make_critic(parts: Parts) -> step_types.Critic | None:
  if parts.critic_optimizer is None:
    return None
  c = parts.config
  size = {'groups_per_microbatch': c.optimizer.groups_per_microbatch}
  reference_logprobs = None
  if c.loss.kl_coef and c.loss.kl_placement == 'reward':
    reference_logprobs = policy_loss.make_logprobs(
      parts.policy, parts.mesh, chunk=c.loss.logits_chunk, **size
    )
  return step_types.Critic(
    values=critic.make_values(parts.policy, parts.mesh, **size),
    update=critic.make_critic_step(
      parts.policy,
      parts.critic_optimizer,
      parts.mesh,
      value_clip=c.critic.value_clip,
      **size,
    ),
    reference_logprobs=reference_logprobs,
  )


def make_memory(config: config_lib.Config) -> repetition.Memory:
  """Returns an empty memory of questions."""
  return repetition.Memory(size=config.proposer.history_size)


def _make_wrap(
  task: task_schema.Task, tokens: tokenizer.Tokenizer
) -> Callable[[str], str]:
  """Returns the function that puts a prompt into the chat template, if any."""

  def wrap(prompt: str) -> str:
    if task.style != 'chat':
      return prompt
    return tokens.chat([{'role': 'user', 'content': prompt}], task.date or None)

  return wrap


def _make_task(
  config: config_lib.Config, tokens: tokenizer.Tokenizer
) -> base.Task:
  t = config.task
  task = prompted.make_task(
    t,
    num_topics=config.proposer.num_questions // config.proposer.group_size,
    group_size=config.solver.group_size,
    wrap=_make_wrap(t, tokens),
    forbidden=tuple(tokens.special_strings),
  )
  if t.answer_kind != 'code':
    return task
  return coding.with_programs(
    task, config.tests, functools.partial(_open_sandbox, config.sandbox)
  )


def _open_sandbox(config: program_schema.Sandbox) -> sandbox.Sandbox:
  return sandbox.open_sandbox(
    config.backend,
    workers=config.workers or len(os.sched_getaffinity(0)),
    limits=sandbox.Limits(
      cpu_seconds=config.cpu_seconds,
      wall_seconds=config.wall_seconds,
      memory_bytes=config.memory_mib * 2**20,
    ),
  )
