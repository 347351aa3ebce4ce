"""Date that a chat template inserts into the prompts of a run."""

import dataclasses

from etils import epath

from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import processes
from sqlm_jax.pretrained import chat, tokenizer
from sqlm_jax.workdir import config_json


def set_date(
  config: config_lib.Config,
  tokens: tokenizer.Tokenizer,
  workdir: epath.PathLike | None,
) -> config_lib.Config:
  """Sets the date of a run whose chat template inserts the current date.

  Otherwise a run that is resumed on another day would have different prompts,
  and an interrupted evaluation would start from the beginning. Every process
  must call this function.

  Args:
    config: Config of the run.
    tokens: Tokenizer with the chat template.
    workdir: Directory of the run, None without a run.

  Returns:
    The config, with `task.date` set if the template inserts the date.
  """
  task = config.task
  if task.style != 'chat' or task.date or not tokens.uses_date:
    return config
  date = processes.broadcast_from_first(lambda: _date_of_run(workdir))
  return dataclasses.replace(config, task=dataclasses.replace(task, date=date))


def _date_of_run(workdir: epath.PathLike | None) -> str:
  """Returns the date of the run in `workdir`, or today's date for a new run.

  Returns '' for a run of an earlier version, whose template continues to insert
  the date of each start.
  """
  stored = config_json.read(workdir) if workdir else None
  if stored is None:
    return chat.today()
  return stored.get('task', {}).get('date', '')
