"""Trains a policy on rollouts that another program sampled and rewarded.

  python examples/own_rollouts.py

The rollouts here are fixed: to each of two prompts, the answers `yes`, `no` and
`maybe`, of which `yes` has reward 1. Replace them by your own token ids and
rewards. Five updates raise the log-probability of `yes`.
"""

import jax
import numpy as np
import optax

from sqlm_jax.distributed import sharding, transfers
from sqlm_jax.engine import groups, learner, policy_loss
from sqlm_jax.models import model_config, policy
from sqlm_jax.selfplay import batches, estimates, packing_plan

PROMPTS = ['Is 7 a prime number? ', 'Is 8 an even number? ']
ANSWERS = ['yes', 'no', 'maybe']
REWARDS_QG = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], np.float32)
STOP = 0  # ends a response, and is part of it
SIZE = {'groups_per_microbatch': len(PROMPTS)}


def encode(text):
  return list(text.encode())


def make_rollout():
  """Returns the responses [Q, G, R] without log-probabilities."""
  responses = [[*encode(answer), STOP] for answer in ANSWERS]
  lengths_G = np.array([len(ids) for ids in responses], np.int32)
  tokens_GR = batches.pad(responses, lengths_G.max())
  tokens_QGR = np.tile(tokens_GR, (len(PROMPTS), 1, 1))
  zeros_QGR = np.zeros(tokens_QGR.shape, np.float32)
  return groups.Rollout(
    tokens=tokens_QGR,
    logprobs=zeros_QGR,
    sampling_logprobs=zeros_QGR,
    lengths=np.tile(lengths_G, (len(PROMPTS), 1)),
    finished=np.ones(tokens_QGR.shape[:2], bool),
  )


def main(num_updates=5):
  """Prints and returns the log-probability of `yes` before each update."""
  # models/model_config.py has the fields: vocabulary, layers, width, ...
  model = policy.make_policy(model_config.ModelConfig(256, 2, 32, 64, 4, 2, 8))
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 1, 'tensor': 1})
  optimizer = optax.adam(3e-3)
  state = learner.init_state(model.init(jax.random.key(0)), optimizer)
  train_step = learner.make_train_step(
    model, optimizer, mesh, policy_loss.LossSettings(), **SIZE
  )
  logprobs = policy_loss.make_logprobs(model, mesh, chunk=512, **SIZE)
  layout = packing_plan.Layout(len(PROMPTS), shards=1)
  history = []
  for _ in range(num_updates):
    scored = batches.pad_groups(
      [encode(prompt) for prompt in PROMPTS],
      make_rollout(),
      REWARDS_QG,
      num_groups=len(PROMPTS),
    )
    # The log-probabilities under the policy before the update. If your sampler
    # returns them, use those instead.
    texts = batches.texts_to_evaluate(scored, layout)
    old_QGR = np.asarray(logprobs(texts, state.params))
    scored = scored._replace(rollout=scored.rollout._replace(logprobs=old_QGR))
    history.append(float(old_QGR[:, 0].sum(-1).mean()))
    print(f'log-probability of yes: {history[-1]:.2f}')
    (batch,) = batches.make_batches(
      scored,
      estimates.of_responses(scored, 'grpo'),
      layout,
      updates=1,
      aggregation='token',
      max_tokens=scored.rollout.tokens.shape[-1],
      keep_neutral=False,
    )
    state, _ = train_step(state, transfers.put_rows(batch, mesh), None, {})
  return history


if __name__ == '__main__':
  main()
