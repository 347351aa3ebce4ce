"""Defines every config key, with the paper's settings where it has them.

This config cannot be run as it is, because it has no task. For a config that
can be run, see `configs/quickstart.py`.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """Returns the base of all other configs, with its keys locked."""
  c = config_dict.ConfigDict()
  c.seed = 0  # seed of all randomness in a run
  c.num_steps = 100  # number of self-play steps

  c.model = config_dict.ConfigDict()
  # Model: a packaged name, a hub id, a GGUF file, a directory, or 'random'.
  c.model.path = 'smollm2-135m-instruct'
  c.model.dtype = 'float32'  # dtype of computation: float32 or bfloat16
  c.model.param_dtype = 'float32'  # storage dtype of trained weights, as above
  # Activations of a block that are recomputed in the backward pass: none, full
  # (all) or dots (all except attention outputs and products with weights).
  c.model.remat = 'dots'
  # Uses attention kernels on GPUs and TPUs if they support the model.
  c.model.kernels = True
  c.model.lora = config_dict.ConfigDict()
  c.model.lora.rank = 0  # rank of the LoRA adapters; 0 trains all weights
  c.model.lora.alpha = 32.0  # the adapters are scaled by alpha / rank

  # Sizes of the byte-level model that is used if model.path is 'random'.
  c.random_model = config_dict.ConfigDict()
  c.random_model.num_layers = 2
  c.random_model.width = 32
  c.random_model.mlp_width = 64
  c.random_model.num_heads = 4
  c.random_model.num_kv_heads = 2
  c.random_model.head_width = 8

  c.policy = config_dict.ConfigDict()
  c.policy.shared = True  # the proposer and the solver share their weights

  c.task = config_dict.ConfigDict()
  c.task.name = ''  # name of the task in metric names
  c.task.style = 'plain'  # plain text, or chat with the model's chat template
  # Current date for chat templates that insert it, as YYYY-MM-DD. '' uses the
  # day on which the run starts, which is stored in its config.json.
  c.task.date = ''
  c.task.topics = ('',)  # values of {topic}; the groups cycle through them
  c.task.proposer_prompt = ''  # template for one question, may use {topic}
  c.task.proposer_stop = ()  # strings that end a question
  c.task.question_pattern = ''  # regex of a valid question; '' accepts any text
  c.task.solver_prompt = ''  # template for an answer, must use {question}
  c.task.solver_variants = ()  # more such templates, which divide each group
  c.task.solver_stop = ()  # strings that end an answer
  # Regex that finds the answer. '' takes the whole response, or for
  # task.answer_kind=code its last fenced block.
  c.task.answer_pattern = ''
  # How answers are compared: as number, text, choice or expression. With code,
  # answers are programs that are run against the question's unit tests.
  c.task.answer_kind = 'number'
  c.task.options = ()  # texts of the options, for task.answer_kind=choice
  # Source of true answers, for diagnosis: none, arithmetic or module:function.
  c.task.checker = 'none'
  # Test set: pairs (question, true answer), or (question, tests) for code.
  c.task.test = ()
  c.task.validation = ()  # validation set, by which a checkpoint is chosen
  # Fixed questions that replace the proposer's: a .txt, .jsonl or .parquet
  # file, or the workdir of a run.
  c.task.questions = ''

  # Unit tests of a question, for task.answer_kind=code.
  c.tests = config_dict.ConfigDict()
  # Regex of a test, whose groups are the input and the output.
  c.tests.pattern = r'(?m)^(.*?)=>(.*)$'
  c.tests.min_count = 5  # minimum number of tests of a valid question
  c.tests.max_count = 10  # maximum number of tests; further tests are ignored
  c.tests.program = '{answer}'  # template of the program that is run
  # Treatment of tests that no answer passes: count them as in the paper, or
  # leave_out.
  c.tests.unsolved = 'count'

  c.sandbox = config_dict.ConfigDict()
  c.sandbox.backend = 'bubblewrap'  # or unsafe_subprocess, without protection
  c.sandbox.workers = 0  # programs run in parallel; 0 is one per processor
  c.sandbox.cpu_seconds = 2.0  # limit of CPU time per test
  c.sandbox.wall_seconds = 4.0  # limit of elapsed time per test
  c.sandbox.memory_mib = 256  # limit of memory per test, in MiB

  c.proposer = config_dict.ConfigDict()
  c.proposer.num_questions = 256  # Q, number of questions per step
  c.proposer.group_size = 4  # number of questions per group, for advantages
  c.proposer.train_every = 5  # steps between updates; 0 never trains it
  # The reward of a question is the weighted sum of these terms. A weight of 0
  # turns a term off; the two repetition terms are subtracted.
  c.proposer.rewards = config_dict.ConfigDict()
  c.proposer.rewards.sqlm = 1.0  # 1 if some answers agree, but not all
  c.proposer.rewards.r_zero = 0.0  # highest if half of the answers agree
  c.proposer.rewards.band = 0.0  # 1 if the agreement is in proposer.band
  # Fraction of the step's other questions that are near-duplicates.
  c.proposer.rewards.batch_repeats = 0.0
  # 1 if the question is a near-duplicate of a question of an earlier step.
  c.proposer.rewards.history_repeats = 0.0
  # Weights that change over time: points (reward, step, weight), between which
  # a weight is interpolated linearly.
  c.proposer.reward_schedule = ()
  c.proposer.band = (0.3, 0.8)  # agreements that proposer.rewards.band rewards
  # For task.answer_kind=code: group computes the reward from the tests that all
  # answers pass in total; sample averages the rewards of single answers.
  c.proposer.reward_over = 'group'
  c.proposer.min_similarity = (
    0.85  # minimum similarity of near-duplicates, 0 to 1
  )
  c.proposer.history_size = (
    10000  # number of earlier questions for history_repeats
  )
  # Reward of an unreadable question, at most 0. No other reward is lower.
  c.proposer.unreadable_reward = -1.0
  c.proposer.temperature = 1.0
  c.proposer.top_p = 1.0
  c.proposer.max_tokens = 1024  # maximum number of tokens of a question

  c.solver = config_dict.ConfigDict()
  c.solver.group_size = 4  # G, number of answers per question
  # The reward of an answer is the weighted sum of these terms.
  c.solver.rewards = config_dict.ConfigDict()
  c.solver.rewards.majority = 1.0  # 1 for the answer of the majority
  c.solver.rewards.tests = 0.0  # fraction of the tests that a program passes
  c.solver.rewards.format = 0.0  # 1 for any readable answer
  c.solver.rewards.random = 0.0  # 0 or 1 at random, as a control
  c.solver.rewards.true = 0.0  # 1 for the checker's answer, as a control
  # Weights that change, as in proposer.reward_schedule.
  c.solver.reward_schedule = ()
  # Maximum number of rounds of questions per step. A step ends early once Q
  # questions have answers with different rewards.
  c.solver.max_rounds = 1
  c.solver.temperature = 1.0
  # Temperatures that the answers of a group cycle through, instead of
  # solver.temperature.
  c.solver.temperatures = ()
  c.solver.top_p = 1.0
  c.solver.max_tokens = 1024  # maximum number of tokens of an answer

  c.vote = config_dict.ConfigDict()
  # Weights of the votes: equal, or likelihood (by mean log-probability).
  c.vote.weights = 'equal'
  c.vote.ties = 'none'  # winner of a tie: none, or first as in the paper
  c.vote.min_agreement = 0.0  # minimum fraction of the group for a majority
  # Number of additional answers per question that an earlier solver samples.
  # They vote, but are not trained on.
  c.vote.earlier_answers = 0
  c.vote.earlier_every = 10  # steps between updates of the earlier solver

  c.sampler = config_dict.ConfigDict()
  c.sampler.dtype = ''  # dtype of sampling; '' uses model.dtype
  # Maximum number of tokens of a prompt; a longer question is invalid.
  c.sampler.max_prompt_tokens = 512
  # Maximum number of responses that are decoded at once; others wait until a
  # row is free. 0 decodes all at once.
  c.sampler.max_rows = 0
  c.sampler.chunk = 32  # tokens between checks for finished responses
  # Samples the first round of a step before learning from the previous step.
  c.sampler.one_step_ahead = False
  # With mesh.fsdp: gathers the whole weights on every device for sampling.
  c.sampler.gather_weights = False

  c.advantage = config_dict.ConfigDict()
  # Estimator: grpo, dr_grpo, rloo, reinforce++, reinforce++_baseline, lite_ppo
  # or reinforce; or gae, which is PPO with a value function (the critic).
  c.advantage.estimator = 'grpo'

  # Critic, a second model of the same size, for advantage.estimator=gae.
  c.critic = config_dict.ConfigDict()
  c.critic.learning_rate = 1e-5  # other settings are those of the optimizer
  c.critic.value_clip = 0.5  # maximum change of a value before it is clipped
  c.critic.gamma = 1.0  # discount per token
  c.critic.gae_lambda = (
    1.0  # lambda of GAE: 0 relies on the values, 1 on rewards
  )

  c.loss = config_dict.ConfigDict()
  c.loss.clip_ratio = 0.2  # clip range of the probability ratio
  c.loss.clip_ratio_high = (
    0.0  # upper clip range; 0 uses loss.clip_ratio; DAPO has 0.28
  )
  # Bound of the ratio for negative advantages (dual clip); 0 turns it off.
  c.loss.dual_clip = 0.0
  c.loss.ratio_level = (
    'token'  # ratio that is clipped: token, or sequence (GSPO)
  )
  c.loss.kl_coef = 0.001  # coefficient of the KL to the initial model; 0 is off
  c.loss.kl_estimator = 'k3'  # estimator of the KL: k3 or k2
  # Place of the KL penalty: loss; or reward, which subtracts it from the reward
  # of each token and requires advantage.estimator=gae.
  c.loss.kl_placement = 'loss'
  c.loss.entropy_coef = 0.0  # coefficient of the entropy bonus
  # Aggregation of the loss: token is the mean over all tokens; sequence is the
  # mean over responses of token means; constant divides the sum over tokens by
  # the number of responses times the maximum response length.
  c.loss.aggregation = 'token'
  c.loss.logits_chunk = 512  # rows of logits in memory at once, per device

  c.optimizer = config_dict.ConfigDict()
  c.optimizer.learning_rate = 1e-6
  c.optimizer.warmup_steps = 0  # optimizer steps of linear warmup
  c.optimizer.b1 = 0.9
  c.optimizer.b2 = 0.999
  # Dtype of Adam's moments: float32, or bfloat16 with stochastic rounding.
  c.optimizer.moment_dtype = 'float32'
  c.optimizer.weight_decay = 0.01
  c.optimizer.clip_norm = 1.0  # maximum global gradient norm; 0 does not clip
  # Maximum KL from the policy that sampled to the updated policy, in nats per
  # token. Larger updates are scaled down. With 0 the KL is not measured.
  c.optimizer.max_update_kl = 0.0
  # With model.dtype=bfloat16, how updates below the spacing of bfloat16 numbers
  # affect products: on average (follow), or only once a weight has moved by
  # half a spacing (hold).
  c.optimizer.small_updates = 'follow'
  c.optimizer.solver_updates = 8  # minibatches per step, of the solver's groups
  c.optimizer.proposer_updates = 2  # minibatches per step, of the proposer's
  c.optimizer.groups_per_microbatch = 8  # groups in memory at once

  c.evaluation = config_dict.ConfigDict()
  # Test set, evaluated before and after training and by --mode=eval: a dataset
  # of docs/evaluate.md or a file. '' uses task.test.
  c.evaluation.test = ''
  # Validation set, also evaluated during training, by which the best checkpoint
  # is chosen. '' uses task.validation.
  c.evaluation.validation = ''
  c.evaluation.question_template = (
    '{question}'  # template for questions of a dataset
  )
  # Steps between evaluations on the validation set; 0 for none during training.
  c.evaluation.every = 5
  # Figure that chooses the best checkpoint: mean (of the samples) or greedy.
  c.evaluation.best_by = 'mean'
  # k, number of sampled answers per question, in addition to the greedy answer.
  c.evaluation.samples = 4
  c.evaluation.seeds = 1  # number of seeds, each with k sampled answers
  c.evaluation.temperature = 1.0  # temperature of the sampled answers
  c.evaluation.top_p = 1.0
  c.evaluation.batch_questions = 100  # questions in memory at once
  # Questions of the proposer that are in an evaluation set: count reports them,
  # exclude also excludes them from training.
  c.evaluation.contaminated = 'count'
  # Desired fraction of votes that are right, for suggesting vote.min_agreement.
  c.evaluation.vote_precision = 0.8

  c.checkpoint = config_dict.ConfigDict()
  # Steps between regular checkpoints; 0 for none. A run also saves at its end,
  # when it is stopped, and after a new best validation score.
  c.checkpoint.every = 10
  c.checkpoint.keep = 2  # number of newest checkpoints to keep

  c.divergence = config_dict.ConfigDict()
  # Number of consecutive skipped updates, which are not finite, after which the
  # run stops; 0 never stops it.
  c.divergence.max_skipped_updates = 10
  # Alarm if the KL to the initial model is higher, in nats per token; 0 is off.
  c.divergence.max_kl = 0.0
  # Alarm if the entropy is lower, in nats per token; 0 is off.
  c.divergence.min_entropy = 0.0
  # Alarm after this number of consecutive steps in which more than half of the
  # questions are invalid; 0 is off. A warning comes after three such steps.
  c.divergence.max_unreadable_steps = 0
  # Reaction to an alarm: stop, or roll_back to the weights of the last
  # checkpoint and continue with the next step.
  c.divergence.action = 'stop'
  c.divergence.max_rollbacks = (
    3  # number of rollbacks after which the run stops
  )

  # Number of devices along each mesh axis; -1 uses all remaining devices.
  c.mesh = config_dict.ConfigDict()
  c.mesh.data = -1  # data parallel: the weights are replicated
  c.mesh.fsdp = 1  # fully sharded: the weights and the batch are sharded
  c.mesh.tensor = 1  # tensor parallel: the heads and the MLP are sharded
  return c.lock()
