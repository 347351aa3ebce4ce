"""Compares answers as mathematics: 1/2, 0.5, 50% and \\frac{1}{2} are equal.

`docs/math_answers.md` specifies which answers are accepted, which are refused,
and which are equal.

1. `plain_text.clean` converts LaTeX and Unicode to plain text.
2. `grammar.read` splits the text into statements and values, and `units`
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
from sqlm_jax.grading.math import grammar, normal_forms, plain_text


def work(task: list[str]) -> Any:
  """Parses a text or compares two answers; the function that the pool runs."""
  match task:
    case ['read', text]:
      try:
        return _encode(_short(grammar.read(text, normal_forms.LEAF)))
      except plain_text.Unreadable as error:
        return str(error)
    case ['same', left, right]:
      return normal_forms.same(left, right)
  raise ValueError(f'{task=}: expected read or same')


def _short(reading: plain_text.Reading) -> plain_text.Reading:
  if len(str(reading.answer())) > plain_text.LONGEST:
    raise plain_text.Unreadable('too_large')
  return reading


def _encode(reading: plain_text.Reading) -> list:
  return [isinstance(reading.value, plain_text.F), *map(str, reading)]


def _decode(said: list) -> plain_text.Reading:
  is_number, value, label, unit = said
  return plain_text.Reading(
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
    longest: maximum number of characters. A longer text is unparsed.
    most_comparisons: maximum number of pairs of one group that are compared
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
    longest: int = 400,
    most_comparisons: int = 16,
    given_up: collections.Counter[str] | None = None,
  ):
    if not 1 <= longest <= plain_text.LONGEST:
      raise ValueError(f'{longest=}: expected 1 to {plain_text.LONGEST}')
    # Number of unparsed texts so far, by reason.
    self.blanks: collections.Counter[str] = collections.Counter()
    self._longest = longest
    self._most_comparisons = most_comparisons
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

  def __exit__(self, *error) -> None:
    self.close()

  def canonical(self, texts: Sequence[str]) -> list[types.Answer]:
    """Returns the canonical answer of every text, each independently."""
    return [r and r.answer() for r in self._readings(texts)]

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
    grammar = iter(self._readings([text for group in groups for text in group]))
    split = [list(itertools.islice(grammar, len(group))) for group in groups]
    pairs_of = [
      list(itertools.islice(_pairs(group), self._most_comparisons))
      for group in split
    ]
    tasks = [pair.task for pairs in pairs_of for pair in pairs]
    results = iter(self._pool.map(tasks) if tasks else ())
    return [
      _merge(group, [pair for pair in pairs if next(results).value is True])
      for group, pairs in zip(split, pairs_of, strict=True)
    ]

  def _readings(self, texts: Sequence[str]) -> list[plain_text.Reading | None]:
    known = {text: _read_cheaply(text, self._longest) for text in set(texts)}
    hard = sorted(text for text, result in known.items() if result is _HARD)
    tasks = [['read', plain_text.clean(text)] for text in hard]
    results = self._pool.map(tasks) if tasks else []
    for text, result in zip(hard, results, strict=True):
      said = result.reason or result.value
      known[text] = said if isinstance(said, str) else _decode(said)
    grammar = [known[text] for text in texts]
    self.blanks.update(r for r in grammar if isinstance(r, str))
    return [None if isinstance(r, str) else r for r in grammar]


_HARD = object()


def _read_cheaply(text: str, longest: int) -> Any:
  """Returns a `Reading`, the reason why there is none, or `_HARD`."""
  if len(text) > longest:
    return 'long'
  try:
    return _short(grammar.read(plain_text.clean(text), grammar.CHEAP))
  except plain_text.Unreadable as error:
    return str(error)
  except RecursionError:
    return 'syntax'
  except plain_text.TooHard:
    return _HARD


def _key(reading: plain_text.Reading) -> str:
  """Returns an answer as text, without its unit."""
  return str(reading._replace(unit='').answer())


class _Pair(NamedTuple):
  """The keys of two answers of a group, and the task that compares them."""

  left: str
  right: str
  task: list[str]


def _pairs(group: Sequence[plain_text.Reading | None]) -> Iterator[_Pair]:
  """Yields pairs of a group that have different forms but may be equal."""
  seen = {_key(r): r for r in group if r is not None}
  for left, right in itertools.combinations(seen, 2):
    first, second = seen[left], seen[right]
    if not _comparable(first, second):
      continue
    if first.label == second.label:  # a label is a name, not an expression
      yield _Pair(left, right, ['same', str(first.value), str(second.value)])
    else:
      yield _Pair(left, right, ['same', left, right])


def _comparable(left: plain_text.Reading, right: plain_text.Reading) -> bool:
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
_JOINED = re.compile(r'^[\[{]| and | or |≠| = .* = ')


def _merge(
  group: Sequence[plain_text.Reading | None], same: Sequence[_Pair]
) -> list[types.Answer]:
  """Replaces every answer by the first answer of its class."""
  read = [reading for reading in group if reading is not None]
  class_of = {_key(r): _key(r) for r in read}

  def join(left, right):
    kept, gone = class_of[left], class_of[right]
    class_of.update({k: kept for k, v in class_of.items() if v == gone})

  for pair in same:
    join(pair.left, pair.right)
  for left, right in _bare_pairs(read):
    join(left, right)
  units = collections.defaultdict(set)
  for r in read:
    units[class_of[_key(r)]].update({r.unit} - {''})
  names: dict[Any, types.Answer] = {}
  named: list[types.Answer] = []
  for r in group:
    if r is None:
      named.append(None)
    else:
      root = class_of[_key(r)]
      key = (root, r.unit if len(units[root]) > 1 else '')
      named.append(names.setdefault(key, r.answer()))
  return named


def _bare_pairs(
  grammar: Sequence[plain_text.Reading],
) -> Iterator[tuple[str, str]]:
  """Yields the keys of pairs 5 and x = 5, unless there is also y = 5."""
  labels = collections.defaultdict(set)
  for reading in grammar:
    labels[reading.value].add(reading.label)
  for value, names in labels.items():
    if '' in names and len(names) == 2:
      yield tuple(_key(plain_text.Reading(value, name)) for name in names)
