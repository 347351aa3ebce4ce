"""Compares answers as mathematics: 1/2, 0.5, 50% and \\frac{1}{2} are equal.

`docs/math_answers.md` specifies which answers are accepted, which are refused,
and which are equal.

1. `plain_text.clean` converts LaTeX and Unicode to plain text.
2. `grammar.parse` splits the text into statements and values, and `units`
   parses the units of values. The remaining texts are expressions.
3. Expressions that are plain numbers are parsed immediately and exactly. Others
   are sent to a worker of a `Verifier`: `parser.Parser` builds a sympy
   expression, which sympy simplifies to a normal form.
4. The canonical answer is a Fraction, or a text in normal form, whose canonical
   answer is itself: 'x = 3', '(2, 3)', '{1, 2}', '2*sqrt(2)', '5 cm'.
5. `Verifier.groups` merges answers to one question whose normal forms differ
   but which sympy proves equal.

No text is evaluated as Python; only this package's parser reads it.
"""

import collections
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlm_jax.game import types
from sqlm_jax.grading import pool
from sqlm_jax.grading.math import grammar, normal_forms, plain_text, units


def work(task: list[str]) -> Any:
  """Parses a text or compares two answers. The pool runs this function."""
  match task:
    case ['parse', text]:
      try:
        parsed = grammar.parse(text, normal_forms.WITH_SYMPY)
        return _encode(_check_length(parsed))
      except plain_text.ParseError as error:
        return str(error)
    case ['same', left, right]:
      return normal_forms.same(left, right)
  raise ValueError(f'{task=}: expected parse or same')


def _check_length(parsed: plain_text.ParsedAnswer) -> plain_text.ParsedAnswer:
  if len(str(parsed.answer())) > plain_text.MAX_LENGTH:
    raise plain_text.ParseError('too_large')
  return parsed


def _encode(parsed: plain_text.ParsedAnswer) -> list:
  return [isinstance(parsed.value, plain_text.F), *map(str, parsed)]


def _decode(fields: list) -> plain_text.ParsedAnswer:
  is_number, value, label, unit = fields
  return plain_text.ParsedAnswer(
    plain_text.F(value) if is_number else value, label, unit
  )


class Verifier:
  """Computes canonical answers; its workers are alive from start to close.

  Args:
    workers: the number of processes.
    time_limit: seconds for one expression or comparison.
    call_limit: seconds for all expressions of a call, and for all comparisons
      of a call. Expressions that have not started by then are unparsed, and
      pairs that have not been compared are not merged.
    memory_limit: bytes of address space of a worker.
    max_length: maximum number of characters. A longer text is unparsed.
    max_comparisons: maximum number of pairs of one group that are compared
      symbolically.
    given_up: counts the tasks that no worker finished, see `pool.Pool`.
  """

  def __init__(
    self,
    *,
    workers: int = 2,
    time_limit: float = 2.0,
    call_limit: float = 60.0,
    memory_limit: int = 2**30,
    max_length: int = 400,
    max_comparisons: int = 16,
    given_up: collections.Counter[str] | None = None,
  ):
    if not 1 <= max_length <= plain_text.MAX_LENGTH:
      raise ValueError(f'{max_length=}: expected 1 to {plain_text.MAX_LENGTH}')
    # Number of unparsed texts so far, by reason.
    self.unparsed: collections.Counter[str] = collections.Counter()
    self._max_length = max_length
    self._max_comparisons = max_comparisons
    self._pool = pool.Pool(
      f'{__name__}:work',
      workers=workers,
      time_limit=time_limit,
      call_limit=call_limit,
      memory_limit=memory_limit,
      given_up=given_up,
      warm_up=['same', 'x + sin(x) = 1', 'sqrt(2)*x = 1'],
    )

  def start(self) -> 'Verifier':
    self._pool.start()
    return self

  def close(self) -> None:
    self._pool.close()

  def __enter__(self) -> 'Verifier':
    return self.start()

  def __exit__(self, *error: object) -> None:
    self.close()

  def canonical(self, texts: Sequence[str]) -> list[types.Answer]:
    """Returns the canonical answer of every text, each independently."""
    return [
      None if parsed is None else parsed.answer()
      for parsed in self._parse_all(texts)
    ]

  def group(self, texts: Sequence[str]) -> list[types.Answer]:
    """Returns the answers to one question, see `groups`."""
    return self.groups([texts])[0]

  def groups(self, groups: Sequence[Sequence[str]]) -> list[list[types.Answer]]:
    """Returns the answers to several questions, merged within each question.

    Two answers are merged if their canonical answers are equal or if sympy
    proves them equal. 5 and x = 5 are merged unless the group assigns 5 to
    another label. 5 and 5 cm are merged unless the group has 5 with another
    unit. Each class of merged answers is represented by its first answer.
    """
    answers = iter(
      self._parse_all([text for group in groups for text in group])
    )
    parsed_groups = [
      list(itertools.islice(answers, len(group))) for group in groups
    ]
    pairs_by_group = [
      list(itertools.islice(_pairs(group), self._max_comparisons))
      for group in parsed_groups
    ]
    tasks = [pair.task for pairs in pairs_by_group for pair in pairs]
    results = iter(self._pool.map(tasks) if tasks else ())
    return [
      _merge(group, [pair for pair in pairs if next(results).value is True])
      for group, pairs in zip(parsed_groups, pairs_by_group, strict=True)
    ]

  def _parse_all(
    self, texts: Sequence[str]
  ) -> list[plain_text.ParsedAnswer | None]:
    # Text -> its parsed answer, or the reason why it could not be parsed.
    outcomes = {
      text: _parse_without_sympy(text, self._max_length) for text in set(texts)
    }
    hard = sorted(text for text, x in outcomes.items() if x is _NEEDS_SYMPY)
    tasks = [['parse', plain_text.clean(text)] for text in hard]
    results = self._pool.map(tasks) if tasks else []
    for text, result in zip(hard, results, strict=True):
      value = result.reason or result.value
      outcomes[text] = value if isinstance(value, str) else _decode(value)
    answers = []
    for text in texts:
      outcome = outcomes[text]
      if isinstance(outcome, str):
        self.unparsed[outcome] += 1
        answers.append(None)
      else:
        answers.append(outcome)
    return answers


_NEEDS_SYMPY = object()


def _parse_without_sympy(text: str, max_length: int) -> Any:
  """Returns a `ParsedAnswer`, a reason for failure, or `_NEEDS_SYMPY`."""
  if len(text) > max_length:
    return 'long'
  try:
    parsed = grammar.parse(plain_text.clean(text), units.WITHOUT_SYMPY)
    return _check_length(parsed)
  except plain_text.ParseError as error:
    return str(error)
  except RecursionError:
    return 'syntax'
  except plain_text.NeedsSympy:
    return _NEEDS_SYMPY


def _key(parsed: plain_text.ParsedAnswer) -> str:
  """Returns an answer as text, without its unit."""
  return str(parsed._replace(unit='').answer())


class _Pair(NamedTuple):
  """The keys of two answers of a group, and the task that compares them."""

  left: str
  right: str
  task: list[str]


def _pairs(group: Sequence[plain_text.ParsedAnswer | None]) -> Iterator[_Pair]:
  """Yields pairs of a group that have different forms but may be equal."""
  seen = {_key(answer): answer for answer in group if answer is not None}
  for left, right in itertools.combinations(seen, 2):
    first, second = seen[left], seen[right]
    if not _comparable(first, second):
      continue
    if first.label == second.label:  # a label is a name, not an expression
      yield _Pair(left, right, ['same', str(first.value), str(second.value)])
    else:
      yield _Pair(left, right, ['same', left, right])


def _comparable(
  left: plain_text.ParsedAnswer, right: plain_text.ParsedAnswer
) -> bool:
  """Returns True if two answers are worth comparing in a worker."""
  values = (left.value, right.value)
  if (
    all(isinstance(value, plain_text.F) for value in values)
    or left.value == right.value
  ):
    return False
  if any(_JOINED.search(str(value)) for value in values):
    return False
  if left.label != right.label and '(' in left.label + right.label:
    return False  # x(2) = 3 is a function's value, unlike the equation 2x = 3
  if left.label == right.label or any(' = ' in str(value) for value in values):
    return True
  # x = 2y and y = x/2 are the same equation.
  return bool(left.label and right.label) and all(
    not isinstance(value, plain_text.F) for value in values
  )


# Lists, sets and joined statements each have a unique form.
_JOINED = re.compile(r'^[\[{]| and | or | = .* = ')


def _merge(
  group: Sequence[plain_text.ParsedAnswer | None], same: Sequence[_Pair]
) -> list[types.Answer]:
  """Replaces every answer by the first answer of its class."""
  answers = [answer for answer in group if answer is not None]
  class_of = {_key(answer): _key(answer) for answer in answers}

  def join(left: str, right: str) -> None:
    kept, gone = class_of[left], class_of[right]
    class_of.update({k: kept for k, v in class_of.items() if v == gone})

  for pair in same:
    join(pair.left, pair.right)
  for left, right in _bare_pairs(answers):
    join(left, right)
  units_of_class = collections.defaultdict(set)
  for answer in answers:
    units_of_class[class_of[_key(answer)]].update({answer.unit} - {''})
  first_answers: dict[tuple[str, str], types.Answer] = {}
  merged: list[types.Answer] = []
  for answer in group:
    if answer is None:
      merged.append(None)
    else:
      root = class_of[_key(answer)]
      key = (root, answer.unit if len(units_of_class[root]) > 1 else '')
      merged.append(first_answers.setdefault(key, answer.answer()))
  return merged


def _bare_pairs(
  answers: Sequence[plain_text.ParsedAnswer],
) -> Iterator[tuple[str, str]]:
  """Yields the keys of pairs 5 and x = 5, unless there is also y = 5."""
  labels = collections.defaultdict(set)
  for answer in answers:
    labels[answer.value].add(answer.label)
  for value, names in labels.items():
    if '' in names and len(names) == 2:
      left, right = (
        _key(plain_text.ParsedAnswer(value, name)) for name in names
      )
      yield left, right
