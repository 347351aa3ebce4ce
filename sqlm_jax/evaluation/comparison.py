"""Comparison of two evaluations of the same questions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sqlm_jax.evaluation import accuracy, paired

_SHOWN = 10  # examples of each kind

# Settings of the models, which are expected to differ.
_OF_THE_MODEL = ('step', 'model', 'seed', 'dtype')

Row = Mapping[str, Any]
Settings = Mapping[str, Any]


def compare(
  first: Sequence[Row],
  second: Sequence[Row],
  *,
  names: tuple[str, str],
  settings: tuple[Settings, Settings],
) -> dict[str, Any]:
  """Compares two evaluations of the same questions.

  Args:
    first: Rows of the first evaluation.
    second: Rows of the second evaluation.
    names: Names of both evaluations.
    settings: Settings of both evaluations.

  Returns:
    A JSON-serializable dict. 'figures' has, for each figure, both values with
    intervals, and the paired difference with its interval and p-value;
    'changed' counts the changes between the greedy answers; 'gained' and 'lost'
    are examples; 'settings_differ' has the other settings that differ.

  Raises:
    ValueError: If the questions are not the same. The message names the first
      question that differs.
  """
  _check_same_questions(first, second, names)
  votes = settings[0]['answer_kind'] != 'code'
  by_question = [
    accuracy.by_question(rows, each['samples'], votes=votes)
    for rows, each in zip((first, second), settings, strict=True)
  ]
  figures = {
    name: _figure(name, *(values[name].mean(axis=1) for values in by_question))
    for name in by_question[0]
    if name in by_question[1]
  }
  return {
    'names': list(names),
    'set': settings[0]['set'],
    'origin': settings[0]['origin'],
    'questions': len(first),
    'figures': figures,
    **_changes(first, second),
    'settings_differ': {
      key: [settings[0].get(key), settings[1].get(key)]
      for key in sorted(settings[0].keys() | settings[1].keys())
      if settings[0].get(key) != settings[1].get(key)
      and key not in _OF_THE_MODEL
    },
    'settings': [dict(each) for each in settings],
  }


def _figure(
  name: str, first_Q: np.ndarray, second_Q: np.ndarray
) -> dict[str, Any]:
  """Returns a figure of both evaluations, and a test of their difference."""
  change = paired.difference(first_Q, second_Q)
  if name == 'greedy':
    change['p'] = paired.mcnemar(first_Q, second_Q)
  return {
    'values': [accuracy.with_interval(x) for x in (first_Q, second_Q)],
    'difference': change,
    'test': 'McNemar, exact' if name == 'greedy' else 'sign flips',
  }


def _changes(first: Sequence[Row], second: Sequence[Row]) -> dict[str, Any]:
  """Counts the changes between greedy answers, and collects examples."""
  kinds = {(a, b): [] for a in (False, True) for b in (False, True)}
  for pair in zip(first, second, strict=True):
    kinds[pair[0]['right'][0], pair[1]['right'][0]].append(pair)
  gained, lost = kinds[False, True], kinds[True, False]
  wrong = kinds[False, False]
  changed = sum(a['answers'][0] != b['answers'][0] for a, b in wrong)
  return {
    'changed': {
      'wrong to right': len(gained),
      'right to wrong': len(lost),
      'wrong to another wrong answer': changed,
      'right both times': len(kinds[True, True]),
      'same wrong answer': len(wrong) - changed,
    },
    'gained': [_example(*pair) for pair in gained[:_SHOWN]],
    'lost': [_example(*pair) for pair in lost[:_SHOWN]],
  }


def _check_same_questions(
  first: Sequence[Row], second: Sequence[Row], names: tuple[str, str]
) -> None:
  if len(first) != len(second):
    raise ValueError(
      f'{names[0]} and {names[1]}: expected the same questions, found '
      f'{len(first)} and {len(second)} questions'
    )
  for a, b in zip(first, second, strict=True):
    if (a['question'], a['true']) != (b['question'], b['true']):
      raise ValueError(
        f'{names[0]} and {names[1]}: expected the same questions, found '
        f'{a["question"]!r} and {b["question"]!r} at number {a["index"]}'
      )


def _example(first: Row, second: Row) -> dict[str, Any]:
  """Returns a question with the greedy answers of both evaluations."""
  return {
    'question': first['question'],
    'true': first['true'],
    'answers': [first['answers'][0], second['answers'][0]],
    'responses': [first['responses'][0], second['responses'][0]],
  }
