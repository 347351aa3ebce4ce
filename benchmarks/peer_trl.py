"""Runs TRL's side of `benchmarks.selfplay_step`, one step per request.

  python -m benchmarks.peer_trl MODEL DTYPE CASE TOKENS ROWS

MODEL is a Hugging Face directory, and ROWS is the number of answers of a
microbatch. Requires torch, transformers, trl and datasets, but not jax.
"""

import collections
import importlib.metadata
import random
import sys
import tempfile
import time

from benchmarks import workers
from benchmarks.selfplay_step import GROUP_SIZE, QUESTIONS


def prompts() -> list[str]:
  """Returns the same prompts as our side's."""
  from configs import quickstart

  return [quickstart.SOLVER_PROMPT.format(question=q) for q in QUESTIONS]


def vote(completions: list[str], case: str) -> list[float]:
  """Returns 1 for the group's most frequent answer, 0 for other answers.

  Returns random rewards if lengths are forced.
  """
  answers = [text.split('\n')[0].strip() for text in completions]
  rewards = []
  for first in range(0, len(answers), GROUP_SIZE):
    group = answers[first : first + GROUP_SIZE]
    winner, _ = collections.Counter(group).most_common(1)[0]
    rewards += [float(answer == winner) for answer in group]
  if case == 'forced':
    rewards = [float(random.random() < 0.5) for _ in rewards]
  return rewards


def main() -> None:
  model_path, dtype, case, tokens, rows = sys.argv[1:]
  tokens, rows = int(tokens), int(rows)
  parent = workers.Parent()
  import datasets
  import torch
  import transformers
  import trl

  tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    model_path, dtype=torch.float32
  )
  generation = {}
  if case == 'forced':
    generation['min_new_tokens'] = tokens
  else:
    (line_end,) = tokenizer.encode('\n', add_special_tokens=False)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, line_end]
  if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token

  class InTurn(transformers.TrainerCallback):
    """Waits for a request before each step and reports the step's seconds.

    A step ends after the update of the weights.
    """

    def on_step_begin(self, args, state, control, **_):
      if parent.receive() is None:
        sys.exit()
      self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
      parent.send(seconds=time.perf_counter() - self.start)

  def reward(completions, **_):
    return vote(completions, case)

  with tempfile.TemporaryDirectory() as output:
    trainer = trl.GRPOTrainer(
      model=model,
      processing_class=tokenizer,
      reward_funcs=reward,
      train_dataset=datasets.Dataset.from_dict({'prompt': prompts()}),
      callbacks=[InTurn()],
      args=trl.GRPOConfig(
        output_dir=output,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=len(QUESTIONS) * GROUP_SIZE // rows,
        num_generations=GROUP_SIZE,
        max_completion_length=tokens,
        generation_kwargs=generation,
        temperature=1.0,
        beta=0.0,
        learning_rate=1e-5,
        lr_scheduler_type='constant',
        weight_decay=0.01,
        max_steps=10**6,
        bf16=dtype == 'bfloat16',
        # Checkpointing would cost time, and there is enough memory.
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy='no',
        report_to=[],
        disable_tqdm=True,
      ),
    )
    names = ('torch', 'transformers', 'trl', 'accelerate')
    parent.send(
      prompt_ids=[tokenizer(prompt)['input_ids'] for prompt in prompts()],
      threads=torch.get_num_threads(),
      versions={name: importlib.metadata.version(name) for name in names},
    )
    trainer.train()


if __name__ == '__main__':
  main()
