"""Opens the gate of a run, which decides what enters training."""

from collections.abc import Sequence

from etils import epath

from sqlm_jax.config import gate_schema
from sqlm_jax.config import schema as config_lib
from sqlm_jax.game import contamination, exclusion, gate
from sqlm_jax.grading import user_functions
from sqlm_jax.run import evaluation_sets


def open_gate(
  config: config_lib.Config, find_set: evaluation_sets.FindSet
) -> gate.Gate:
  """Returns the gate, and starts the processes of a user's functions.

  Args:
    config: Config of the run.
    find_set: Returns an evaluation set, whose questions the gate recognizes.
  """
  return gate.Gate(
    config.gate,
    _make_guard(config, find_set),
    exclusion=_make_exclusion(config.exclude),
    functions=_open_functions('gate.functions', config.gate.functions),
    min_similarity=config.proposer.min_similarity,
    options=config.task.options
    if config.task.answer_kind == 'choice'
    else None,
  )


def open_skill(name: str) -> user_functions.Function | None:
  """Returns the function that `proposer.kinds` names, None if it names none."""
  return (
    user_functions.Function('proposer.kinds', name) if ':' in name else None
  )


def _make_guard(
  config: config_lib.Config, find_set: evaluation_sets.FindSet
) -> contamination.Guard:
  sets = map(find_set, evaluation_sets.PURPOSES)
  return contamination.make_guard(
    (
      example.question
      for evaluation_set in sets
      if evaluation_set
      for example in evaluation_set.examples
    ),
    config.evaluation.contaminated,
  )


def _make_exclusion(config: gate_schema.Exclude) -> exclusion.Exclusion:
  words = []
  if config.words_file:
    words = _read_words(config.words_file)
  return exclusion.make_exclusion(
    config.patterns,
    words,
    _open_functions('exclude.functions', config.functions),
  )


def _read_words(path: str) -> list[str]:
  try:
    return epath.Path(path).read_text(encoding='utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f'exclude.words_file={path!r}: expected a text file in UTF-8 with one '
      f'word or phrase per line ({error})'
    ) from None


def _open_functions(
  key: str, names: Sequence[str]
) -> tuple[user_functions.Function, ...]:
  return tuple(user_functions.Function(key, name) for name in names)
