"""The whole method on one page: a tiny model teaches itself to add digits.

  python examples/rl_loop.py

A question and its answer are one text, such as `?7+4=11.`. The proposer
continues `?` up to the equals sign, and the solver continues `?7+4=` up to the
full stop, with the same weights. A vote can only reinforce frequent answers.
The model is therefore first trained on sums of which many are wrong, most often
those with a carry. After that it sees no labels. Each step is

  propose -> solve -> vote -> reward -> advantage -> update

For seeds 0 to 7, 40 steps raised the share of right answers to all 100
questions from 0.64-0.68 to 0.90-0.94. The proposer learned to ask for sums with
a carry, on which the answers still differ. A run takes 33 s, compilation
included (two cores of an AMD EPYC, jax 0.10.2).

Comments name the modules of `sqlm_jax` that do the same at scale.
"""

import functools
import random
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sqlm_jax.engine import learner
from sqlm_jax.game import rewards, vote
from sqlm_jax.models import model_config, policy
from sqlm_jax.ops import advantages, logprobs, losses, masked, sampling

VOCABULARY = '?0123456789+=.'
SUMS = {f'?{a}+{b}=': a + b for a in range(10) for b in range(10)}
NUM_QUESTIONS, GROUP_SIZE = 100, 8  # Q and G; ops/shapes.py has all letters

# models/decoder.py: layers, width, MLP width, query and KV heads, head width.
MODEL = policy.make_policy(
  model_config.ModelConfig(len(VOCABULARY), 1, 64, 128, 4, 4, 16)
)


class Rollout(NamedTuple):  # engine/groups.py
  texts: jax.Array  # [B, T], prompts and responses
  logprobs: jax.Array  # [B, R], under the policy that sampled the responses
  mask: jax.Array  # [B, R], False after the end of a response


def encode(texts):  # pretrained/tokenizer.py
  return np.array([[VOCABULARY.index(c) for c in text] for text in texts])


def decode(rollout):
  responses_BR = np.array(rollout.texts)[:, -rollout.mask.shape[1] :]
  rows = zip(responses_BR, np.array(rollout.mask), strict=True)
  return [''.join(VOCABULARY[i] for i in row[mask]) for row, mask in rows]


def next_token_logits(params, texts_BT):
  lengths_B = jnp.full(len(texts_BT), texts_BT.shape[1])
  hidden_BTD, _ = MODEL.forward(params, texts_BT, lengths_B)
  return MODEL.logits(params, hidden_BTD)


@functools.partial(jax.jit, static_argnames=('stop', 'limit'))
def sample(params, prompts_BP, key, *, stop, limit):
  """Continues every prompt; engine/sampler.py also caches keys and values."""
  texts_BT, logprobs_RB = prompts_BP, []
  for token_key in jax.random.split(key, limit):
    logits_BV = next_token_logits(params, texts_BT)[:, -1]
    uniforms_B = jax.random.uniform(token_key, len(texts_BT))
    draw = sampling.draw(uniforms_B, logits_BV)
    texts_BT = jnp.concatenate([texts_BT, draw.tokens[:, None]], axis=1)
    logprobs_RB.append(draw.logprobs)
  is_stop_BR = texts_BT[:, -limit:] == VOCABULARY.index(stop)
  has_ended_BR = jnp.cumsum(is_stop_BR, axis=1) - is_stop_BR > 0
  return Rollout(texts_BT, jnp.stack(logprobs_RB, axis=1), ~has_ended_BR)


def token_logprobs(params, texts_BT):
  logits_BTV = next_token_logits(params, texts_BT[:, :-1])
  tokens_BT1 = texts_BT[:, 1:, None]
  logprobs_BT1, _ = jax.vmap(logprobs.chosen)(logits_BTV, tokens_BT1)
  return logprobs_BT1[..., 0]


def supervised_loss(params, texts_BT):
  return -token_logprobs(params, texts_BT).mean()


def policy_loss(params, rollout, advantages_QG):
  """Computes PPO's clipped loss; engine/policy_loss.py adds KL and entropy."""
  width = rollout.mask.shape[1]
  logprobs_BR = token_logprobs(params, rollout.texts)[:, -width:]
  loss_BR, _ = losses.clipped_surrogate(
    logprobs_BR, rollout.logprobs, advantages_QG.reshape(-1, 1), clip_ratio=0.2
  )
  return masked.mean(loss_BR, rollout.mask)


@functools.partial(jax.jit, static_argnums=(0, 1))
def update(loss, optimizer, state, *batch):  # engine/learner.py
  grads = jax.grad(loss)(state.params, *batch)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return learner.TrainState(state.step + 1, params, opt_state)


def pretrain(seed, num_steps=500):
  """Trains on sums: half with a carry and a fifth of the others are wrong."""
  optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))
  params = jax.jit(MODEL.init)(jax.random.key(seed))
  state = learner.init_state(params, optimizer)
  generator = random.Random(seed)
  for _ in range(num_steps):
    texts = []
    for question, result in generator.choices(list(SUMS.items()), k=128):
      if generator.random() < (0.5 if result >= 10 else 0.2):
        result = max(result + generator.choice([-3, -2, -1, 1, 2, 3]), 0)
      texts.append(f'{question}{result}.'.ljust(8, '.'))
    state = update(supervised_loss, optimizer, state, encode(texts))
  return state.params


def solve(params, prompts_QP, key):
  """Returns G responses to each question, and the answers read from them."""
  prompts_BP = np.repeat(prompts_QP, GROUP_SIZE, axis=0)
  solutions = sample(params, prompts_BP, key, stop='.', limit=3)
  answers = [  # grading/answers.py; None is unparsed
    int(text[:-1]) if re.fullmatch(r'\d+\.', text) else None
    for text in decode(solutions)
  ]
  return solutions, np.reshape(answers, (-1, GROUP_SIZE)).tolist()


def self_play_step(state, optimizer, key):  # selfplay/step.py
  """Plays one step and learns from it; returns the new state and metrics."""
  propose_key, solve_key = jax.random.split(key)
  # Propose. tasks/prompted.py reads questions of any form.
  prompts_QP = encode(['?'] * NUM_QUESTIONS)
  proposals = sample(state.params, prompts_QP, propose_key, stop='=', limit=4)
  questions = decode(proposals)
  readable_Q = np.array([bool(re.fullmatch(r'\d\+\d=', q)) for q in questions])
  # Solve. Unreadable questions are answered only to keep the arrays' shapes.
  solutions, answers_QG = solve(state.params, proposals.texts, solve_key)
  # Vote. Reward the solver for agreeing with the majority, and the proposer if
  # some, but not all, answers agree (selfplay/scoring.py).
  votes = [vote.majority(answers) for answers in answers_QG]
  solver_rewards_QG = np.array(list(map(rewards.majority, answers_QG, votes)))
  difficulty_Q = [rewards.difficulty_of_vote('sqlm', v) for v in votes]
  proposer_rewards_1Q = np.where(readable_Q, difficulty_Q, -1.0)[None]
  # Advantages. Answers are compared with answers to the same question, and
  # questions with all other questions, because they continue one prompt.
  counted_QG = np.tile(readable_Q[:, None], GROUP_SIZE)
  all_1Q = np.ones((1, NUM_QUESTIONS), bool)
  solver_QG = advantages.group_relative(solver_rewards_QG, counted_QG)
  proposer_1Q = advantages.group_relative(proposer_rewards_1Q, all_1Q)
  # Update both roles (selfplay/learning.py).
  state = update(policy_loss, optimizer, state, solutions, solver_QG)
  state = update(policy_loss, optimizer, state, proposals, proposer_1Q)
  readable = np.array(questions)[readable_Q]
  return state, {
    'with carry': np.mean([int(q[0]) + int(q[2]) >= 10 for q in readable]),
    'agreement': np.mean([v.count / v.size for v in votes]),
    'proposer reward': np.mean(proposer_rewards_1Q),
  }


def evaluate(params, key):
  """Compares the answers to all 100 questions with the right ones."""
  _, answers_QG = solve(params, encode(SUMS), key)
  votes_Q = [vote.majority(answers).answer for answers in answers_QG]
  right_QG = np.equal(answers_QG, [[result] for result in SUMS.values()])
  right_Q = np.equal(votes_Q, list(SUMS.values()))
  return {'answers right': right_QG.mean(), 'votes right': right_Q.mean()}


def show(name, metrics):
  print(f'{name}:', ', '.join(f'{k} {v:.2f}' for k, v in metrics.items()))


def main(seed=0, num_steps=40):  # modes/train.py
  """Prints and returns the metrics before the first step and of every step."""
  key, optimizer = jax.random.key(seed), optax.adam(3e-4)
  state = learner.init_state(pretrain(seed), optimizer)
  history = [evaluate(state.params, key)]
  show('before', history[0])
  for step in range(num_steps):
    step_key, evaluation_key = jax.random.split(jax.random.fold_in(key, step))
    state, metrics = self_play_step(state, optimizer, step_key)
    history.append(metrics | evaluate(state.params, evaluation_key))
    show(f'step {step + 1:2d}', history[-1])
  return history


if __name__ == '__main__':
  main()
