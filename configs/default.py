"""Every key of a run, with the paper's settings where it has them.

Not meant to be run as it is: it has no task. See `configs/quickstart.py`.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """Returns the config that all others start from, with its keys locked."""
  c = config_dict.ConfigDict()
  c.seed = 0  # everything random is derived from it
  c.num_steps = 100  # self-play steps of a run

  c.model = config_dict.ConfigDict()
  c.model.path = 'smollm2-135m-instruct'  # or a GGUF file, a directory, random
  c.model.dtype = 'float32'  # computed in: float32, bfloat16
  c.model.param_dtype = 'float32'  # trained weights are stored in, as above
  # Computed again in the backward pass: none, full (all activations of a block)
  # or dots (those that are no product with weights).
  c.model.remat = 'dots'
  # Attention by kernels on GPUs and TPUs, where these have some for the model.
  c.model.kernels = True
  c.model.lora = config_dict.ConfigDict()
  c.model.lora.rank = 0  # train adapters of this rank, 0: all weights
  c.model.lora.alpha = 32.0  # adapters are scaled by alpha / rank

  # Sizes of the model where model.path is 'random'. It reads bytes.
  c.random_model = config_dict.ConfigDict()
  c.random_model.num_layers = 2
  c.random_model.width = 32
  c.random_model.mlp_width = 64
  c.random_model.num_heads = 4
  c.random_model.num_kv_heads = 2
  c.random_model.head_width = 8

  c.policy = config_dict.ConfigDict()
  c.policy.shared = True  # one set of weights for proposer and solver

  c.task = config_dict.ConfigDict()
  c.task.name = ''  # as it stands in metric names
  c.task.style = 'plain'  # plain text, or chat through the model's template
  # Today's date for a chat template that writes it, as YYYY-MM-DD. '': the day
  # on which the run begins, which is stored in its config.json.
  c.task.date = ''
  c.task.topics = ('',)  # fill {topic}; more than one take turns
  c.task.proposer_prompt = ''  # asks for one question, may use {topic}
  c.task.proposer_stop = ()  # strings that end a question
  c.task.question_pattern = ''  # regex of a readable question, '': anything
  c.task.solver_prompt = ''  # asks for an answer, uses {question}
  c.task.solver_variants = ()  # more such templates, answers take turns
  c.task.solver_stop = ()  # strings that end an answer
  # Regex that finds the answer; '': the whole response, or for code its last
  # fenced block.
  c.task.answer_pattern = ''
  # When answers are the same: number, text, choice, expression. Or code: they
  # are programs, run against the question's tests.
  c.task.answer_kind = 'number'
  c.task.options = ()  # texts of the options, for choice
  # True answers for diagnosis: none, arithmetic, module:function.
  c.task.checker = 'none'
  c.task.evaluation = ()  # pairs (question, true answer), for code its tests
  c.task.validation = ()  # other such pairs, to choose a checkpoint by
  # Questions written beforehand, instead of by the proposer: a .txt, .jsonl or
  # .parquet file, or the workdir of a run.
  c.task.questions = ''

  # The unit tests of a question, for the answer kind code.
  c.tests = config_dict.ConfigDict()
  # Regex of a test: its groups are the input and the output.
  c.tests.pattern = r'(?m)^(.*?)=>(.*)$'
  c.tests.least = 5  # fewer make a question unreadable
  c.tests.most = 10  # those behind are ignored
  c.tests.program = '{answer}'  # template of the program that is run
  # Tests that no answer passes: count as in the paper, or leave_out.
  c.tests.unpassed = 'count'

  c.sandbox = config_dict.ConfigDict()
  c.sandbox.backend = 'bubblewrap'  # unsafe_subprocess protects nothing
  c.sandbox.workers = 0  # programs at a time, 0: one a processor
  c.sandbox.cpu_seconds = 2.0  # limits of a program, a test
  c.sandbox.wall_seconds = 4.0
  c.sandbox.memory_mib = 256

  c.proposer = config_dict.ConfigDict()
  c.proposer.questions = 256  # Q, questions a step
  c.proposer.group_size = 4  # questions whose rewards are compared
  c.proposer.train_every = 5  # steps; 0 never trains the proposer
  # The reward of a question is the sum of these, each times its weight.
  c.proposer.rewards = config_dict.ConfigDict()
  c.proposer.rewards.sqlm = 1.0  # 1 if some answers agree, but not all
  c.proposer.rewards.r_zero = 0.0  # by how close to half agree
  c.proposer.rewards.band = 0.0  # 1 if the share that agrees is in the band
  c.proposer.rewards.batch_repeats = 0.0  # less for near-duplicates in a step
  c.proposer.rewards.history_repeats = 0.0  # less for those of earlier steps
  # Weights that change: points (reward, step, weight), linear in between.
  c.proposer.schedule = ()
  c.proposer.band = (0.3, 0.8)  # shares, for that reward
  c.proposer.reward_over = 'group'  # or sample: where tests are passed
  c.proposer.similarity = 0.85  # from which on two questions are duplicates
  c.proposer.memory = 10000  # questions that history_repeats looks back on
  c.proposer.unreadable_reward = -1.0  # at most 0, the lowest of all rewards
  c.proposer.temperature = 1.0
  c.proposer.top_p = 1.0
  c.proposer.max_tokens = 1024  # of a question

  c.solver = config_dict.ConfigDict()
  c.solver.group_size = 4  # G, answers a question
  c.solver.rewards = config_dict.ConfigDict()  # weights, as the proposer's
  c.solver.rewards.majority = 1.0  # 1 for the answer of the majority
  c.solver.rewards.tests = 0.0  # share of the tests that a program passes
  c.solver.rewards.format = 0.0  # 1 for any readable answer
  c.solver.rewards.random = 0.0  # 0 or 1: a control
  c.solver.rewards.true = 0.0  # 1 for the checker's answer: a control
  c.solver.schedule = ()
  # Rounds of questions a step, until enough of them tell answers apart.
  c.solver.rounds = 1
  c.solver.temperature = 1.0
  c.solver.temperatures = ()  # the answers of a group take turns in these
  c.solver.top_p = 1.0
  c.solver.max_tokens = 1024  # of an answer

  c.vote = config_dict.ConfigDict()
  c.vote.weights = 'equal'  # or likelihood: by the mean log-probability
  c.vote.ties = 'nobody'  # who wins a tie: nobody, or first as in the paper
  c.vote.min_agreement = 0.0  # least share of the group for a majority
  c.vote.earlier_answers = 0  # votes a question of an earlier solver
  c.vote.earlier_every = 10  # steps until that becomes today's solver

  c.sampler = config_dict.ConfigDict()
  c.sampler.dtype = ''  # what is sampled in, '': as model.dtype
  c.sampler.max_prompt_tokens = 512  # a longer question is unreadable
  # Responses decoded side by side, while others wait for their turn; 0: all.
  c.sampler.max_rows = 0
  c.sampler.chunk = 32  # tokens from one look at who has ended to the next
  # Sample a step's first round before the step before it has been learned from.
  c.sampler.one_step_ahead = False
  # With mesh.fsdp: every device holds whole weights while it samples.
  c.sampler.gather_weights = False

  c.advantage = config_dict.ConfigDict()
  # grpo, dr_grpo, rloo, reinforce++, reinforce++_baseline, lite_ppo,
  # reinforce. Or gae: PPO with a value function, the critic.
  c.advantage.estimator = 'grpo'

  # Where advantage.estimator is gae: a second model of the same size.
  c.critic = config_dict.ConfigDict()
  c.critic.learning_rate = 1e-5  # the rest as for the policy
  c.critic.clip = 0.5  # how far an update may move a value
  c.critic.gamma = 1.0  # discount a token
  c.critic.decay = 1.0  # GAE's lambda: 0 trusts the values, 1 the rewards

  c.loss = config_dict.ConfigDict()
  c.loss.clip = 0.2  # clip ratio
  c.loss.clip_high = 0.0  # how far up, if not as far as down; DAPO: 0.28
  c.loss.dual_clip = 0.0  # bound where the advantage is negative; 0 is none
  c.loss.ratio = 'token'  # what is clipped; or sequence: GSPO
  c.loss.kl = 0.001  # weight of the KL to the initial model; 0 drops it
  c.loss.kl_estimator = 'k3'  # or k2
  c.loss.kl_in = 'loss'  # or reward: a token pays for it, with gae alone
  c.loss.entropy = 0.0  # weight of the entropy bonus
  # Over all tokens; sequence: over responses; constant: over their room.
  c.loss.average = 'token'
  c.loss.logits_chunk = 512  # rows of logits at the same time, a device

  c.optimizer = config_dict.ConfigDict()
  c.optimizer.learning_rate = 1e-6
  c.optimizer.warmup_steps = 0
  c.optimizer.b1 = 0.9
  c.optimizer.b2 = 0.999
  c.optimizer.moment_dtype = 'float32'  # or bfloat16, rounded at random
  c.optimizer.weight_decay = 0.01
  c.optimizer.clip_norm = 1.0  # global norm of a gradient; 0 does not clip
  # Largest KL from the policy that sampled to the updated one, in nats a token.
  # A larger update is shortened. 0: no bound, and the KL is not measured.
  c.optimizer.max_update_kl = 0.0
  # With model.dtype=bfloat16, for updates that are smaller than the spacing of
  # bfloat16 numbers: products see them on average (follow), or see a weight
  # move only once it has moved by half a spacing (hold).
  c.optimizer.small_updates = 'follow'
  c.optimizer.solver_updates = 8  # minibatches of a step's solver groups
  c.optimizer.proposer_updates = 2  # minibatches of a step's proposer groups
  c.optimizer.groups_per_microbatch = 8  # groups in memory at once

  c.evaluation = config_dict.ConfigDict()
  # Labelled questions of before and after, and of --mode=eval: a dataset of
  # docs/evaluate.md, or a file. '' takes task.evaluation.
  c.evaluation.test = ''
  # Others, looked at on schedule; the best checkpoint is chosen by them. ''
  # takes task.validation.
  c.evaluation.validation = ''
  c.evaluation.question = '{question}'  # how a dataset's question is put
  c.evaluation.every = 5  # steps from one validation to the next; 0: none
  c.evaluation.best_by = 'mean'  # or greedy: what is highest at the best step
  c.evaluation.samples = 4  # k, answers a question, beside the greedy one
  c.evaluation.seeds = 1  # times that k answers are sampled
  c.evaluation.temperature = 1.0  # of the k answers
  c.evaluation.top_p = 1.0
  c.evaluation.batch_questions = 100  # questions in memory at once
  # A question of the proposer that stands in an evaluation set: count or
  # exclude, and then nobody learns from it.
  c.evaluation.contaminated = 'count'
  # How often votes should be right, where a least agreement is suggested.
  c.evaluation.vote_precision = 0.8

  c.checkpoint = config_dict.ConfigDict()
  c.checkpoint.every = 10  # steps; 0 only at the end
  c.checkpoint.keep = 2  # newest checkpoints that are kept

  c.divergence = config_dict.ConfigDict()
  # Updates in a row that are not finite, and skipped, until the run stops; 0:
  # it goes on.
  c.divergence.skipped_updates = 10
  # Alarms, a token, in nats: a KL to the initial model, and an entropy.
  c.divergence.kl_above = 0.0  # 0: none
  c.divergence.entropy_below = 0.0
  # Alarm after this number of steps in a row in which more than half of the
  # questions could not be used; 0: none. After three such steps there is a
  # warning.
  c.divergence.unreadable_steps = 0
  # On an alarm: stop, or roll_back to the last checkpoint's weights, and go on
  # with the next step.
  c.divergence.action = 'stop'
  c.divergence.rollbacks = 3  # then it stops

  # Devices along each mesh axis; -1 takes what is left.
  c.mesh = config_dict.ConfigDict()
  c.mesh.data = -1  # copies of the weights
  c.mesh.fsdp = 1  # weights and batch split
  c.mesh.tensor = 1  # heads and MLP split
  return c.lock()
