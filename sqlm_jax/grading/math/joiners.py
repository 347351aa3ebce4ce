"""Splits an answer into parts and joins the parsed parts.

The joiner is part of the canonical form: 'x > 1 and x < 2' differs from
'x > 1 or x < 2'. `docs/math_answers.md` defines the meaning of each joiner.
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from sqlm_jax.grading.math import plain_text


class Part(NamedTuple):
  """A part of an answer, whose kind determines how it is joined."""

  # 'value': 5 cm, (1, 2). 'assignment': x = 5. 'system': x = 1, y = 2.
  # 'relation': x < 3, x + y = 1. 'alternatives': x = 1 or y = 2.
  kind: str
  parsed: plain_text.ParsedAnswer
  # Assigned names and their printed values, in the order of the text.
  values: tuple[tuple[str, str], ...] = ()
  choices: tuple[plain_text.ParsedAnswer, ...] = ()  # -2 and 2 for ±2


_SEPARATOR = re.compile(r'[\n,;]|\b(?:and|or|AND|OR)\b')
_TIGHT_COMMA = re.compile(r'\d,\d')
_CODES = {'\n': 'b', ',': 'c', ';': 'c', 'and': 'a', 'or': 'o'}
_RUN = re.compile('b*c?b*[ao]?b*')  # valid runs of separators such as ', and'


def split(text: str) -> tuple[list[str], list[str]]:
  """Splits at commas, words and line breaks outside of brackets.

  Returns:
    The parts, and the joiners between them: ',', 'and', 'or' or a line break.
  """
  parts, runs, separators, start, depth, seen = [], [], set(), 0, 0, 0
  for match in _SEPARATOR.finditer(text):
    depth += depth_of(text[seen : match.start()])
    seen = match.end()
    if depth:
      continue
    part = text[start : match.start()]
    is_tight = _TIGHT_COMMA.match(text, match.start() - 1)
    separators.add('tight comma' if is_tight else match[0])
    if not part.strip() and runs:
      runs[-1] += _CODES[match[0].lower()]
    else:
      parts.append(part)
      runs.append(_CODES[match[0].lower()])
    start = match.end()
  if {'tight comma', ';'} <= separators:  # (1,5; 2,5): two or four numbers
    raise plain_text.ParseError('syntax')
  return [*parts, text[start:]], [_joiner(run) for run in runs]


def _joiner(run: str) -> str:
  """Returns the joiner that a run of separators represents."""
  if not _RUN.fullmatch(run):
    raise plain_text.ParseError('syntax')
  for code, joiner in (('o', 'or'), ('a', 'and'), ('c', ',')):
    if code in run:
      return joiner
  return '\n'


def depth_of(text: str) -> int:
  """Returns the number of opening brackets minus closing brackets."""
  return sum((char in '([{') - (char in ')]}') for char in text)


def at_top(pattern: re.Pattern, text: str) -> list[re.Match]:
  """Finds the matches outside of brackets."""
  matches, depth, seen = [], 0, 0
  for match in pattern.finditer(text):
    depth += depth_of(text[seen : match.start()])
    seen = match.end()
    if not depth:
      matches.append(match)
  return matches


def cut(text: str, matches: Sequence[re.Match]) -> list[str]:
  """Returns the pieces of a text before, between and after the matches."""
  starts = [0, *(match.end() for match in matches)]
  ends = [*(match.start() for match in matches), len(text)]
  return [text[a:b].strip() for a, b in zip(starts, ends, strict=True)]


def join(parts: Sequence[Part], joiners: Sequence[str]) -> Part:
  """Joins parts by their joiners.

  Raises:
    plain_text.ParseError: if the kinds of the parts cannot be joined, or if the
      joiners are ambiguous.
  """
  joined, (first, *rest) = set(joiners), parts
  kinds = {part.kind for part in parts}
  followed_by_values = {part.kind for part in rest} == {'value'}
  if '\n' in joined and 'value' in kinds:
    raise plain_text.ParseError('mixed')  # each line must hold a statement
  if kinds == {'value'}:
    return Part('value', collected(_without_labels(parts), joined))
  if kinds == {'relation'}:
    return _joined_relations(parts, joined)
  labels = {part.parsed.label for part in parts if part.kind == 'assignment'}
  if len(labels) == 1 and (
    kinds == {'assignment'}
    or (first.kind == 'assignment' and followed_by_values)
  ):
    return assigned(
      labels.pop(), collected(_without_labels(parts), joined - {'\n'})
    )
  if first.kind == 'system' and followed_by_values:
    names = [name for name, _ in first.values]
    return either([first, *(solution(names, part.parsed) for part in rest)])
  if kinds <= {'assignment', 'system'}:
    return _joined_systems(parts, joiners)
  raise plain_text.ParseError('mixed')


def _without_labels(parts: Sequence[Part]) -> list[plain_text.ParsedAnswer]:
  """Returns the values of the parts, without labels."""
  return [
    parsed._replace(label='')
    for part in parts
    for parsed in part.choices or (part.parsed,)
  ]


def collected(
  parsed_answers: Sequence[plain_text.ParsedAnswer], joined: set[str]
) -> plain_text.ParsedAnswer:
  """Combines values to a set, or to a union of intervals."""
  if {'and', 'or'} <= joined:
    raise plain_text.ParseError('mixed')
  if 'or' in joined and any(str(r.value)[0] in '([' for r in parsed_answers):
    return union(parsed_answers)
  return as_set(parsed_answers)


def as_set(
  parsed_answers: Sequence[plain_text.ParsedAnswer],
) -> plain_text.ParsedAnswer:
  """Combines values to a set; a single value is returned unchanged."""
  elements = sorted({str(parsed.answer()) for parsed in parsed_answers})
  if len(elements) == 1:
    return parsed_answers[0]
  unit_names = {parsed.unit for parsed in parsed_answers}
  if '' in unit_names and len(unit_names) > 1:  # 3 and 4 cm; 3,40 €
    raise plain_text.ParseError('mixed')
  if any(' or ' in element for element in elements):  # an element is a union
    raise plain_text.ParseError('mixed')
  return plain_text.ParsedAnswer('{' + ', '.join(elements) + '}')


def union(
  parsed_answers: Sequence[plain_text.ParsedAnswer],
) -> plain_text.ParsedAnswer:
  """Combines intervals and sets to a union: (-oo, 1) or (2, oo)."""
  members: dict[str, plain_text.ParsedAnswer] = {}
  for parsed in parsed_answers:
    text = str(parsed.answer())
    if text[0] == '{':
      elements, _ = split(text[1:-1])
      members.update(
        {e.strip(): plain_text.ParsedAnswer(e.strip()) for e in elements}
      )
    elif ' or ' in text:
      members.update(
        {e: plain_text.ParsedAnswer(e) for e in text.split(' or ')}
      )
    else:
      members[text] = parsed
  if not any(text[0] in '([' for text in members):
    return as_set(list(members.values()))
  if len(members) == 1:
    return next(iter(members.values()))
  return plain_text.ParsedAnswer(' or '.join(sorted(members)))


def _joined_relations(parts: Sequence[Part], joined: set[str]) -> Part:
  """Joins relations by 'and' or by 'or', but not by a mix of the two."""
  texts = {str(part.parsed.value) for part in parts}
  compound = any(' and ' in text or ' or ' in text for text in texts)
  if 'or' in joined and (len(joined) > 1 or compound):
    raise plain_text.ParseError('mixed')
  if 'or' in joined:
    return relation(' or '.join(sorted(texts)))
  if any(' or ' in text for text in texts):
    raise plain_text.ParseError('mixed')
  texts = {piece for text in texts for piece in text.split(' and ')}
  return relation(' and '.join(sorted(_bounds(texts))))


def _bounds(texts: set[str]) -> set[str]:
  """Combines 1 < x and x < 2 to 1 < x < 2."""
  if len(texts) != 2:
    return texts
  for lower, upper in itertools.permutations(texts):
    first, second = (
      re.fullmatch(r'([^<]+) (<=?) ([^<]+)', text) for text in (lower, upper)
    )
    if first and second and first[3] == second[1]:
      if decreases([first[1], second[3]]):
        raise plain_text.ParseError('false')  # x < 1, x > 2 probably means 'or'
      return {f'{lower} {second[2]} {second[3]}'}
  return texts


def decreases(terms: Sequence[str]) -> bool:
  """Returns True if any number is followed by a smaller number."""
  numbers = [plain_text.F(t) for t in terms if re.fullmatch(r'-?\d+(/\d+)?', t)]
  return numbers != sorted(numbers)


def relation(text: str) -> Part:
  """Returns the part for a relation in normal form."""
  return Part('relation', plain_text.ParsedAnswer(text))


def assigned(label: str, parsed: plain_text.ParsedAnswer) -> Part:
  """Returns the part that assigns a value to a label."""
  if parsed.label:
    raise plain_text.ParseError('mixed')
  parsed = parsed._replace(label=label)
  value = str(parsed._replace(label='').answer())
  return Part('assignment', parsed, ((label, value),))


def _joined_systems(parts: Sequence[Part], joiners: Sequence[str]) -> Part:
  """Joins x = 1, y = 2; x = 1 or y = 2; x = 1, y = 2 or x = 3, y = 4."""
  names = {frozenset(dict(part.values)) for part in parts}
  if len(names) == 1 and parts[0].kind == 'system':
    return either(parts)  # (x, y) = (1, 2), (x, y) = (3, 4)
  if 'or' not in joiners:
    return system(parts)
  if set(joiners) == {'or'}:
    if len(names) > 1 and any(part.kind == 'system' for part in parts):
      raise plain_text.ParseError('mixed')  # x = 1 or (x, y) = (1, 2)
    return either(parts)
  groups = [[parts[0]]]
  for joiner, part in zip(joiners, parts[1:], strict=True):
    if joiner == 'or':
      groups.append([part])
    else:
      groups[-1].append(part)
  systems = [system(group) for group in groups]
  # x = 1, y = 2 or y = 3 is ambiguous.
  if len({frozenset(dict(s.values)) for s in systems}) > 1:
    raise plain_text.ParseError('mixed')
  return either(systems)


def system(parts: Sequence[Part]) -> Part:
  """Joins assignments to different names that hold simultaneously."""
  values = tuple(itertools.chain(*(part.values for part in parts)))
  if len(dict(values)) < len(values):
    raise plain_text.ParseError('mixed')
  return Part('system', plain_text.ParsedAnswer(_system_text(values)), values)


def _system_text(values: Sequence[tuple[str, str]]) -> str:
  return ', '.join(sorted(f'{name} = {value}' for name, value in values))


def either(parts: Sequence[Part]) -> Part:
  """Joins assignments and systems as alternatives."""
  texts = sorted({_system_text(part.values) for part in parts})
  if len(texts) == 1:
    return parts[0]
  return Part('alternatives', plain_text.ParsedAnswer(' or '.join(texts)))


def solution(names: Sequence[str], parsed: plain_text.ParsedAnswer) -> Part:
  """Assigns the elements of a tuple such as (1, 2) to the names."""
  text = str(parsed.answer())
  elements = split(text[1:-1])[0] if text[0] + text[-1] == '()' else []
  if len(elements) != len(names):
    raise plain_text.ParseError('mixed')
  values = list(zip(names, map(str.strip, elements), strict=True))
  if any(name == value for name, value in values):  # (x, y) = (x, y)
    raise plain_text.ParseError('mixed')
  return system([Part('assignment', parsed, (pair,)) for pair in values])
