"""The verdict of a report: go on, stop, or not proven.

docs/report.md documents the rules in the order in which they apply.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlm_jax.reporting import figures, messages

GO_ON, STOP, NOT_PROVEN = 'go on', 'stop', 'not proven'

_SIGNIFICANCE = 0.05
_WARNING = 'warn'


class Text(NamedTuple):
  """An English text and the values of its fields, to be translated."""

  text: str
  values: dict[str, Any]


class Advice(NamedTuple):
  """A verdict.

  Attributes:
    verdict: `GO_ON`, `STOP` or `NOT_PROVEN`.
    reason: Reason of the verdict.
    remarks: What else to know before acting on it.
  """

  verdict: str
  reason: Text
  remarks: tuple[Text, ...]


def advise(
  improvement: figures.Improvement | None,
  fall: figures.Fall | None,
  alarms: Sequence[figures.Alarm],
  *,
  contaminated: float | None = None,
  num_seen: int = 0,
  missing: Sequence[int | None] = (),
  num_steps: int,
  last_step: int,
) -> Advice:
  """Applies the rules.

  Args:
    improvement: Evaluations of the test set, or of the validation set if the
      test set has not been evaluated twice; None without either.
    fall: Fall of the validation score since its best step, None without one.
    alarms: Alarms of the run.
    contaminated: Fraction of the run's questions that are in an evaluation
      set, None if it is not known.
    num_seen: Number of questions of `improvement` that the run was trained on
      with their true answers, such as those of verdicts.
    missing: Missing evaluations, see `figures.missing`.
    num_steps: Number of steps of the config.
    last_step: Number of steps that are finished.
  """
  remarks = [
    *_remarks_on_the_run(improvement, num_steps, last_step),
    *_remarks_on_alarms(alarms),
    *_remarks_on_questions(contaminated, num_seen),
  ]
  verdict, reason = _decide(improvement, fall, alarms, missing, num_seen)
  return Advice(verdict, reason, tuple(remarks))


def _decide(
  improvement: figures.Improvement | None,
  fall: figures.Fall | None,
  alarms: Sequence[figures.Alarm],
  missing: Sequence[int | None],
  num_seen: int,
) -> tuple[str, Text]:
  mark = messages.mark
  if improvement and improvement.collapsed:
    text = mark(
      'Nearly all answers of the last model are the same, whatever is asked.'
    )
    return STOP, Text(text, {})
  change = improvement.difference if improvement else None
  is_significant = change is not None and change['p'] < _SIGNIFICANCE
  if change is not None and is_significant and change['value'] < 0:
    if improvement and improvement.set == figures.TEST:
      return STOP, Text(mark('The model has become worse on the test set.'), {})
    text = mark('The model has become worse on the validation set.')
    return STOP, Text(text, {})
  serious = [a for a in alarms if a.ended is None and a.action != _WARNING]
  if serious:
    text = mark('The alarm {name} has held since step {step}.')
    first = serious[0]
    return STOP, Text(text, {'name': first.name, 'step': first.since})
  if fall and fall.difference['p'] < _SIGNIFICANCE:
    text = mark(
      'The validation score has fallen since step {best}. Use the checkpoint '
      'of that step.'
    )
    return STOP, Text(text, {'best': fall.best_step})
  if improvement is None:
    text = mark('The model was not evaluated both before and after training.')
    return NOT_PROVEN, Text(text, {})
  if improvement.set != figures.TEST:
    text = mark(
      'Only the validation set was evaluated, which training uses to choose '
      'checkpoints.'
    )
    return NOT_PROVEN, Text(text, {})
  if missing:
    text = mark('An evaluation on the test set is missing.')
    return NOT_PROVEN, Text(text, {})
  if num_seen:
    text = mark(
      'The run was trained with the true answers of {number} of the {total} '
      'test questions.'
    )
    total = improvement.comparison['questions']
    return NOT_PROVEN, Text(text, {'number': num_seen, 'total': total})
  if is_significant:
    text = mark(
      'The model has improved on questions whose answers it never saw.'
    )
    return GO_ON, Text(text, {})
  text = mark(
    'The difference on {number} questions may be chance. More steps or more '
    'test questions can settle it.'
  )
  number = improvement.comparison['questions']
  return NOT_PROVEN, Text(text, {'number': number})


def _remarks_on_the_run(
  improvement: figures.Improvement | None, num_steps: int, last_step: int
) -> list[Text]:
  remarks = []
  if last_step < num_steps:
    text = messages.mark('The run has finished {step} of {total} steps.')
    remarks.append(Text(text, {'step': last_step, 'total': num_steps}))
  if improvement and improvement.last_step < last_step:
    text = messages.mark(
      'The last evaluation is of the model after {step} steps, and the run has '
      'finished {last} steps.'
    )
    values = {'step': improvement.last_step, 'last': last_step}
    remarks.append(Text(text, values))
  if improvement and improvement.changes['lost']:
    text = messages.mark(
      'The model now fails {number} test questions that it answered before.'
    )
    remarks.append(Text(text, {'number': improvement.changes['lost']}))
  return remarks


def _remarks_on_alarms(alarms: Sequence[figures.Alarm]) -> list[Text]:
  text = messages.mark('The warning {name} has held since step {step}.')
  return [
    Text(text, {'name': alarm.name, 'step': alarm.since})
    for alarm in alarms
    if alarm.ended is None and alarm.action == _WARNING
  ]


def _remarks_on_questions(
  contaminated: float | None, num_seen: int
) -> list[Text]:
  if not contaminated:
    return []
  if num_seen:
    text = messages.mark(
      '{share} of the questions of the run are also in an evaluation set.'
    )
    return [Text(text, {'share': f'{contaminated:.0%}'})]
  text = messages.mark(
    '{share} of the questions of the run are also in an evaluation set. Their '
    'true answers were not used.'
  )
  return [Text(text, {'share': f'{contaminated:.0%}'})]
