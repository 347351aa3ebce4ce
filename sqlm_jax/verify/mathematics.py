"""Answers compared as mathematics: 1/2, 0.5, 50% and \\frac{1}{2} are equal.

1. `notation.clean` brings LaTeX and Unicode into plain ASCII.
2. `readings.read` takes the text apart: tuples, sets, assignments,
   inequalities, units. What is left are expressions.
3. Expressions that are numbers are read at once, exactly. Others go to a
   worker of a `Verifier`: `expressions.Parser` builds what sympy simplifies.
4. The canonical answer is a Fraction, or a text in normal form, which reads
   back to itself: 'x = 3', '(2, 3)', '{1, 2}', '2*sqrt(2)', '5 cm'.
5. `Verifier.groups` merges the answers of one question that sympy could not
   bring into one form, although `math_verify` finds them equal.

What counts as equal:

- Decimals are exact: 0.333 is not 1/3. A percent is 1/100.
- A unit is part of an answer, and so is the x of x = 5, but within a group a
  bare 5 is equal to the only answer that says more, see `Verifier.groups`.
  Nothing is converted: 60 minutes is not 1 hour. A currency is a unit.
- (1, 2) and [1, 2] have an order, {1, 2} and a bare 1, 2 have none.
- Outside of brackets 1,000 is a number, (1,000) is the pair of 1 and 0.
- 1/2x is x/2, from left to right. i and e are constants, no is a word, xy a
  product. Other symbols are real numbers.

No text is ever evaluated as Python: our own parser reads it, for sympify,
parse_expr and latex2sympy either evaluate it or guess (2(3) would be 5).
"""

import collections
import itertools
from collections.abc import Sequence
from typing import Any

import sympy
from math_verify import grader

from sqlm_jax.game import types
from sqlm_jax.verify import expressions, notation, pool, readings


def work(task: list[str]) -> Any:
  """Reads a text, or compares two answers: the function of the pool."""
  match task:
    case ['read', text]:
      try:
        return _encode(
          expressions.short(readings.read(text, expressions.expression))
        )
      except notation.Unreadable as error:
        return str(error)
    case ['same', one, other]:
      return _same(_object(one), _object(other))
  raise ValueError(f'{task=}: expected read or same')


def _encode(reading: notation.Reading) -> list:
  return [isinstance(reading.value, notation.F), *map(str, reading)]


def _decode(said: list) -> notation.Reading:
  is_number, value, label, unit = said
  return notation.Reading(
    notation.F(value) if is_number else value, label, unit
  )


def _object(text: str) -> sympy.Basic:
  """A canonical answer as sympy and math_verify know it."""
  if (
    text[0] == '('
    and text[-1] == ')'  # not an interval, (1, 2]
    and notation.closing(text, 0) == len(text) - 1
    and ', ' in text
  ):
    return sympy.Tuple(*map(_object, readings.split(text[1:-1])))
  for sign, relation in (
    (' <= ', sympy.Le),
    (' < ', sympy.Lt),
    (' = ', sympy.Eq),
  ):
    if text.count(sign) == 1:
      return relation(*map(_object, text.split(sign)), evaluate=False)
  return expressions.Parser(text).parse()


def _same(one: sympy.Basic, other: sympy.Basic) -> bool:
  """Whether math_verify finds them equal, whichever is the reference."""
  if one.free_symbols != other.free_symbols:
    return False
  return all(
    grader.verify(gold, target, timeout_seconds=None, raise_on_error=True)
    for gold, target in ((one, other), (other, one))
  )


class Verifier:
  """Canonical answers, with workers that are warm between start and close.

  Args:
    workers: processes.
    time_limit: seconds for one expression or comparison.
    call_limit: seconds for all expressions, and for all comparisons, of a call;
      what has not begun by then is a blank, or a pair that is not merged.
    memory_limit: bytes of address space of a worker.
    longest: characters; a longer text is a blank, unread.
    most_comparisons: pairs of one group that are compared symbolically.
    given_up: counts what no worker came back from, see `pool.Pool`.
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
    if not 1 <= longest <= notation.LONGEST:
      raise ValueError(f'{longest=}: expected 1 to {notation.LONGEST}')
    self.blanks: collections.Counter[str] = collections.Counter()  # why, so far
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
    """The canonical answer of every text, each on its own."""
    return [r and r.answer() for r in self._readings(texts)]

  def group(self, texts: Sequence[str]) -> list[types.Answer]:
    """The answers of one question, see `groups`."""
    return self.groups([texts])[0]

  def groups(self, groups: Sequence[Sequence[str]]) -> list[list[types.Answer]]:
    """The answers of several questions, merged within each question.

    Equal to each other are: equal canonical answers; answers that math_verify
    finds equal in both directions; 5 and x = 5, unless the group knows another
    label of 5; 5 and 5 cm, unless the group knows another unit of 5. The first
    of a class names it.
    """
    readings = iter(
      self._readings([text for group in groups for text in group])
    )
    split = [list(itertools.islice(readings, len(group))) for group in groups]
    pairs = [
      list(itertools.islice(_pairs(group), self._most_comparisons))
      for group in split
    ]
    asked = [['same', *pair] for group in pairs for pair in group]
    said = iter(self._pool.map(asked) if asked else ())
    return [
      _merge(group, [pair for pair in asked if next(said).value is True])
      for group, asked in zip(split, pairs, strict=True)
    ]

  def _readings(self, texts: Sequence[str]) -> list[notation.Reading | None]:
    known = {text: _read_cheaply(text, self._longest) for text in set(texts)}
    hard = sorted(text for text, found in known.items() if found is _HARD)
    tasks = [['read', notation.clean(text)] for text in hard]
    results = self._pool.map(tasks) if tasks else []
    for text, result in zip(hard, results, strict=True):
      said = result.why_not or result.value
      known[text] = said if isinstance(said, str) else _decode(said)
    found = [known[text] for text in texts]
    self.blanks.update(why_not for why_not in found if isinstance(why_not, str))
    return [None if isinstance(reading, str) else reading for reading in found]


_HARD = object()


def _read_cheaply(text: str, longest: int) -> Any:
  """A reading, a word that says why it is a blank, or `_HARD`."""
  if len(text) > longest:
    return 'long'
  try:
    return expressions.short(
      readings.read(notation.clean(text), readings.number_or_too_hard)
    )
  except notation.Unreadable as error:
    return str(error)
  except RecursionError:
    return 'syntax'
  except notation.TooHard:
    return _HARD


def _key(reading: notation.Reading) -> str:
  """An answer without its unit, as text."""
  return str(reading._replace(unit='').answer())


def _pairs(group: Sequence[notation.Reading | None]):
  """Pairs of a group that differ in form, and might yet be equal."""
  seen = {_key(r): r for r in group if r is not None}
  for one, other in itertools.combinations(seen, 2):
    if _comparable(seen[one], seen[other]):
      yield one, other


def _comparable(one: notation.Reading, other: notation.Reading) -> bool:
  values = (one.value, other.value)
  if (
    all(isinstance(value, notation.F) for value in values)
    or one.value == other.value
  ):
    return False
  if any(str(value)[0] in '[{' for value in values):
    return False
  if one.label != other.label:
    return any(' = ' in str(value) for value in values)
  return True


def _merge(
  group: Sequence[notation.Reading | None], same: Sequence[tuple[str, str]]
) -> list[types.Answer]:
  """Names every answer by the first one of its class."""
  read = [reading for reading in group if reading is not None]
  class_of = {_key(r): _key(r) for r in read}

  def join(one, other):
    kept, gone = class_of[one], class_of[other]
    class_of.update({k: kept for k, v in class_of.items() if v == gone})

  for one, other in (*same, *_bare_pairs(read)):
    join(one, other)
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


def _bare_pairs(readings: Sequence[notation.Reading]):
  """5 and x = 5, where no y = 5 competes for it."""
  labels = collections.defaultdict(set)
  for reading in readings:
    labels[reading.value].add(reading.label)
  for value, found in labels.items():
    if '' in found and len(found) == 2:
      yield tuple(_key(notation.Reading(value, label)) for label in found)
