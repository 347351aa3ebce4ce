"""Config keys of the model, of sampling and of learning."""

import dataclasses
from typing import Literal

from sqlm_jax.config import keys

Dtype = Literal['float32', 'bfloat16']


@dataclasses.dataclass(frozen=True)
class Lora:
  """Low-rank adapters, which are trained instead of the model's weights."""

  rank: int = keys.key(
    0,
    'Rank of the adapters; 0 trains all weights of the model instead.',
    keys.within(0, 2**16),
  )
  alpha: float = keys.key(
    32.0, 'The adapters are scaled by alpha / rank.', keys.above(0)
  )


@dataclasses.dataclass(frozen=True)
class Model:
  """The model that both roles start from."""

  path: str = keys.key(
    'smollm2-135m-instruct',
    'The name of a packaged model, a hub id, a GGUF file, a directory, or '
    '`random`. See [your_model.md](your_model.md).',
    keys.Check(
      bool, 'a packaged name, a hub id, a file, a directory, or random'
    ),
  )
  dtype: Dtype = keys.key(
    'float32', 'Dtype of computations.', may_change=keys.TO_EVALUATE
  )
  param_dtype: Dtype = keys.key('float32', 'Dtype of the trained weights.')
  remat: Literal['none', 'dots', 'full'] = keys.key(
    'dots',
    'Activations of a block that are recomputed in the backward pass: `none`; '
    '`full`, all; or `dots`, all except attention outputs and products with '
    'weights.',
    may_change=keys.TO_RESUME,
  )
  kernels: bool = keys.key(
    True,
    'Use attention kernels on GPUs and TPUs if they support the model.',
    may_change=keys.TO_RESUME,
  )
  lora: Lora = keys.group(Lora)


def _size(default: int, doc: str) -> int:
  return keys.key(default, doc, keys.within(1, 2**20))


@dataclasses.dataclass(frozen=True)
class RandomModel:
  """The byte-level model that is used if `model.path` is `random`."""

  num_layers: int = _size(2, 'Number of layers.')
  width: int = _size(32, 'Width of the model.')
  mlp_width: int = _size(64, 'Width of the MLPs.')
  num_heads: int = _size(4, 'Number of query heads.')
  num_kv_heads: int = _size(2, 'Number of key and value heads.')
  head_width: int = _size(8, 'Width of a head.')


@dataclasses.dataclass(frozen=True)
class Policy:
  """The policies of the two roles."""

  shared: bool = keys.key(True, 'The proposer and the solver share weights.')
  average_decay: float = keys.key(
    0.0,
    "d, decay of an exponential moving average of the solver's weights: after "
    'each step, average = d * average + (1 - d) * weights. The average is '
    'evaluated and exported instead of the weights. With '
    '`vote.earlier_answers`, it also votes. 0 for no average.',
    keys.below(1),
  )


@dataclasses.dataclass(frozen=True)
class Sampler:
  """The sampling of responses."""

  dtype: Literal['', 'float32', 'bfloat16'] = keys.key(
    '', "Dtype of sampling; `''` uses `model.dtype`."
  )
  max_prompt_tokens: int = keys.key(
    512,
    'Maximum number of tokens of a prompt. The gate refuses a question with a '
    'longer prompt.',
    keys.at_least(1),
  )
  max_rows: int = keys.key(
    0,
    'Maximum number of responses that are decoded at once; the others wait '
    'until one of these is finished. 0 decodes all at once.',
    keys.at_least(0),
    may_change=keys.TO_RESUME,
  )
  chunk: int = keys.key(
    32,
    'Number of tokens between checks for finished responses.',
    keys.at_least(1),
    may_change=keys.TO_RESUME,
  )
  one_step_ahead: bool = keys.key(
    False,
    'Sample the first round of a step before the previous step is learned '
    'from.',
  )
  gather_weights: bool = keys.key(
    False,
    'With `mesh.fsdp`, gather the whole weights on every device for sampling.',
    may_change=keys.TO_RESUME,
  )


@dataclasses.dataclass(frozen=True)
class Advantage:
  """The estimator of advantages, see [algorithm.md](algorithm.md)."""

  estimator: Literal[
    'grpo',
    'dr_grpo',
    'rloo',
    'reinforce++',
    'reinforce++_baseline',
    'lite_ppo',
    'reinforce',
    'gae',
  ] = keys.key(
    'grpo', 'Estimator; `gae` is PPO with a value function (the critic).'
  )
  positive_weight: float = keys.key(
    1.0,
    'Weight of the positive advantages of the solver. Below 1, it learns more '
    'from the answers that disagree with the vote than from those that agree.',
    keys.at_least(0),
  )

  @property
  def uses_critic(self) -> bool:
    return self.estimator == 'gae'


@dataclasses.dataclass(frozen=True)
class Critic:
  """The critic for `advantage.estimator=gae`, a model of the same size."""

  learning_rate: float = keys.key(
    1e-5,
    'Learning rate; the other settings are those of `optimizer`.',
    keys.at_least(0),
  )
  value_clip: float = keys.key(
    0.5, 'Maximum change of a value before it is clipped.', keys.above(0)
  )
  gamma: float = keys.key(1.0, 'Discount per token.', keys.within(0, 1))
  gae_lambda: float = keys.key(
    1.0,
    'Lambda of GAE: 0 relies on the values of the critic, 1 on the rewards.',
    keys.within(0, 1),
  )


@dataclasses.dataclass(frozen=True)
class Loss:
  """The policy-gradient loss, see [algorithm.md](algorithm.md)."""

  clip_ratio: float = keys.key(
    0.2, 'Clip range of the probability ratio.', keys.within(0, 1)
  )
  clip_ratio_high: float = keys.key(
    0.0,
    'Upper clip range of the probability ratio, 0.28 in DAPO; 0 uses '
    '`loss.clip_ratio`.',
    keys.at_least(0),
  )
  dual_clip: float = keys.key(
    0.0,
    'Bound of the ratio for negative advantages (dual clip), above 1 plus the '
    'upper clip range; 0 turns it off.',
  )
  ratio_level: Literal['token', 'sequence'] = keys.key(
    'token', 'Ratio that is clipped: that of a token, or of a sequence (GSPO).'
  )
  kl_coef: float = keys.key(
    0.001,
    'Coefficient of the KL to `loss.kl_reference`; 0 turns it off.',
    keys.at_least(0),
  )
  kl_reference: Literal['initial', 'average'] = keys.key(
    'initial',
    'Reference policy of the KL: `initial`, the initial model, or `average`, '
    'the moving average of `policy.average_decay`.',
  )
  kl_target: float = keys.key(
    0.0,
    'KL per token that the coefficient of the KL adapts to, in nats, starting '
    'from `loss.kl_coef`; 0 keeps the coefficient fixed.',
    keys.at_least(0),
  )
  kl_estimator: Literal['k2', 'k3'] = keys.key('k3', 'Estimator of the KL.')
  kl_placement: Literal['loss', 'reward'] = keys.key(
    'loss',
    'Where the KL penalty is applied: it is added to the loss, or subtracted '
    'from the reward of each token. `reward` requires '
    '`advantage.estimator=gae`.',
  )
  entropy_coef: float = keys.key(
    0.0, 'Coefficient of the entropy bonus.', keys.at_least(0)
  )
  entropy_target: float = keys.key(
    0.0,
    'Entropy per token that the coefficient of the entropy bonus adapts to, in '
    'nats, starting from `loss.entropy_coef`; 0 keeps the coefficient fixed.',
    keys.at_least(0),
  )
  adapt_rate: float = keys.key(
    0.1,
    'Maximum relative change of an adaptive coefficient per step.',
    keys.above(0, high=0.9),
  )
  aggregation: Literal['token', 'sequence', 'constant'] = keys.key(
    'token',
    'How the loss of a batch is computed from that of its tokens: `token`, the '
    'mean over all tokens; `sequence`, the mean over responses of the mean '
    'over tokens; `constant`, the sum over all tokens divided by the number of '
    'responses times the maximum response length.',
  )
  logits_chunk: int = keys.key(
    512,
    'Number of tokens whose logits are in memory at once, per device.',
    keys.at_least(1),
    may_change=keys.TO_RESUME,
  )


@dataclasses.dataclass(frozen=True)
class Anchor:
  """Prompts on which the policy is kept close to the initial model."""

  questions: str = keys.key(
    '',
    'Questions that are not trained on and whose answers should not change: a '
    'file as for `task.questions`, or the workdir of a run. The KL from the '
    "initial model on these questions is added to the loss. `''` for none. See "
    '[algorithm.md](algorithm.md#the-anchor-selfplayanchorpy).',
  )
  template: str = keys.key(
    '',
    "Template of the prompts. `''` uses `task.solver_prompt`; `{question}` "
    'uses each question as a whole prompt.',
    keys.Check(
      lambda text: not text or '{question}' in text,
      "a template with {question}, or ''",
    ),
  )
  kl_coef: float = keys.key(1.0, 'Coefficient of the KL.', keys.above(0))
  answers: int = keys.key(
    4,
    'Number of answers to each prompt, which the initial model samples once.',
    keys.within(1, 2**10),
  )
  prompts_per_update: int = keys.key(
    4,
    'Number of prompts in an update. The updates use the prompts in turn.',
    keys.within(1, 2**20),
  )


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """AdamW, and the number of updates per step."""

  learning_rate: float = keys.key(1e-6, 'Learning rate.', keys.at_least(0))
  warmup_steps: int = keys.key(
    0, 'Number of updates of linear warmup.', keys.at_least(0)
  )
  schedule: Literal['constant', 'linear', 'cosine'] = keys.key(
    'constant', 'Schedule of the learning rate after the warmup.'
  )
  decay_steps: int = keys.key(
    0,
    'Number of updates over which the learning rate decays after the warmup; '
    'required by the schedules `linear` and `cosine`.',
    keys.at_least(0),
  )
  min_lr_ratio: float = keys.key(
    0.0,
    'Learning rate after the decay, divided by `optimizer.learning_rate`.',
    keys.within(0, 1),
  )
  b1: float = keys.key(0.9, 'Decay of the first moment.', keys.below(1))
  b2: float = keys.key(0.999, 'Decay of the second moment.', keys.below(1))
  moment_dtype: Dtype = keys.key(
    'float32', 'Dtype of the moments; bfloat16 is rounded stochastically.'
  )
  weight_decay: float = keys.key(
    0.01, 'Weight decay, of matrices only.', keys.at_least(0)
  )
  clip_norm: float = keys.key(
    1.0, 'Maximum global gradient norm; 0 does not clip.', keys.at_least(0)
  )
  max_update_kl: float = keys.key(
    0.0,
    'Maximum KL from the policy before an update to the policy after it, in '
    'nats per token, for every role that is trained with these weights in the '
    'step. Larger updates are scaled down. 0 for no limit; the KL is then not '
    'measured.',
    keys.at_least(0),
  )
  small_updates: Literal['follow', 'hold'] = keys.key(
    'follow',
    'With `model.dtype=bfloat16`, when updates that are smaller than the '
    'spacing of bfloat16 numbers have an effect: `follow`, at once, on '
    'average; `hold`, once a weight has moved by half a spacing.',
  )
  solver_updates: int = keys.key(
    8,
    "Number of minibatches, and thus of updates, that the solver's groups of a "
    'step are divided into; a divisor of `proposer.num_questions`.',
    keys.at_least(1),
  )
  proposer_updates: int = keys.key(
    2,
    "Number of minibatches, and thus of updates, that the proposer's groups of "
    'a step are divided into; a divisor of the number of groups.',
    keys.at_least(1),
  )
  groups_per_microbatch: int = keys.key(
    8,
    'Number of groups per microbatch, whose activations are in memory at once.',
    keys.at_least(1),
    may_change=keys.TO_RESUME,
  )


def _axis(default: int, doc: str) -> int:
  check = keys.Check(
    lambda size: size == -1 or 1 <= size <= 2**20,
    f'a number from 1 to {2**20}, or -1 for all remaining devices',
  )
  return keys.key(default, doc, check)


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Number of devices along each axis of the mesh, see [scale.md](scale.md)."""

  data: int = _axis(-1, 'Data parallel: the weights are replicated.')
  fsdp: int = _axis(1, 'Fully sharded: the weights and the batch are sharded.')
  tensor: int = _axis(1, 'Tensor parallel: the heads and MLPs are sharded.')
