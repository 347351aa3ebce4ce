"""Evaluations and comparisons as JSON, Markdown and plots.

Models write what they like: in Markdown their texts stand on one line, clipped,
in code quotes that they cannot close.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from sqlm_jax import json_text
from sqlm_jax.evaluation import collapse, plots

_LONGEST = 60  # characters of a text in a table

Settings = Mapping[str, Any]


def to_markdown(comparison: Mapping[str, Any]) -> str:
  """The comparison, of `comparison.compare`, for people."""
  names = [code(name) for name in comparison['names']]
  origin = comparison['origin']
  lines = [
    f'# {names[0]} and {names[1]}',
    f'{comparison["questions"]} questions of {code(origin)}. In brackets 95% '
    'intervals, over questions; the difference and its p-value are paired.',
    table(
      ['', *names, 'difference', 'p', 'test'],
      [
        [
          name,
          *map(interval, found['values']),
          interval(found['difference'], signed=True),
          _p_value(found['difference']['p']),
          found['test'],
        ]
        for name, found in comparison['figures'].items()
      ],
    ),
    *_constant_differences(comparison['figures'], comparison['questions']),
    'What became of the greedy answers:',
    table(
      ['from the first to the second', 'questions'],
      [[name, str(n)] for name, n in comparison['changed'].items()],
    ),
  ]
  for key, title in (('gained', 'Wrong to right'), ('lost', 'Right to wrong')):
    if comparison[key]:
      lines += [f'## {title}', _examples(comparison[key], names)]
  if comparison['settings_differ']:
    lines += [
      '## Not asked alike',
      table(
        ['', *names],
        [
          [name, *map(code, map(str, values))]
          for name, values in comparison['settings_differ'].items()
        ],
      ),
    ]
  return '\n\n'.join(lines) + '\n'


def _constant_differences(
  figures: Mapping[str, Mapping[str, Any]], questions: int
) -> list[str]:
  """Explains the interval of figures in which all questions differ alike."""
  names = [
    name
    for name, figure in figures.items()
    if figure['difference'].get('constant')
  ]
  if not names:
    return []
  return [
    f'All {questions} questions differ alike in {", ".join(names)}, so that a '
    'bootstrap would give an interval without a width. The interval of this '
    'difference allows for any other difference in a share of the questions, '
    f"up to the upper end of Wilson's interval of 0 of {questions}."
  ]


def _examples(examples: Sequence[Mapping], names: Sequence[str]) -> str:
  shown = []
  for one in examples:
    # A blank has no answer: then what was written tells why.
    answers = [
      response if answer is None else answer
      for answer, response in zip(one['answers'], one['responses'], strict=True)
    ]
    shown.append(
      [code(one['question']), code(one['true']), *map(code, answers)]
    )
  return table(['question', 'true', *names], shown)


def write(directory: epath.PathLike, comparison: Mapping[str, Any]) -> None:
  """Writes comparison.json, .md, .svg and .png, each whole or not at all."""
  directory = epath.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  _write(directory / 'comparison.json', _to_json(comparison))
  _write(directory / 'comparison.md', to_markdown(comparison).encode())
  for kind, content in plots.comparison(comparison).items():
    _write(directory / f'comparison.{kind}', content)


def write_result(
  directory: epath.PathLike,
  result: Mapping[str, Mapping[str, Any]],
  curve: Mapping[str, Any] | None,
  settings: Settings,
  collapsed: Mapping[str, Mapping[str, Any]] = {},
) -> None:
  """Writes result.json and .md, and the curve as reliability.svg and .png.

  Args:
    directory: of an evaluation.
    result: of `metrics.summarize`.
    curve: of `reliability.measure`, None without votes.
    settings: of the evaluation.
    collapsed: of `collapse.find`.
  """
  directory = epath.Path(directory)
  stored = {
    'figures': result,
    'reliability': curve,
    'collapsed': collapsed,
    'settings': settings,
  }
  _write(directory / 'result.json', _to_json(stored))
  lines = [
    f'# {settings["set"]}, after {settings["step"]} steps',
    f'{settings["questions"]} questions of {code(settings["origin"])}. In '
    'brackets 95% intervals, over questions.',
    table(
      ['', 'value', 'standard deviation over seeds'],
      [
        [name, interval(one), '' if not one.get('std') else f'{one["std"]:.4f}']
        for name, one in result.items()
      ],
    ),
  ]
  for name, x in collapsed.items():
    lines.append(
      f'**Collapsed ({name}):** {x["share"]:.0%} of the answers are '
      f'{code(x["answer"])}, which is right for {x["true_share"]:.0%} of the '
      'questions.'
    )
  if curve is not None:
    lines += ['## Votes', describe_votes(curve), votes(curve)]
    for kind, content in plots.reliability(curve).items():
      _write(directory / f'reliability.{kind}', content)
  lines += [
    '## Settings',
    '```json\n' + json_text.dumps(settings, indent=2) + '\n```',
  ]
  _write(directory / 'result.md', ('\n\n'.join(lines) + '\n').encode())


def describe_votes(curve: Mapping[str, Any]) -> str:
  """Says in a sentence which agreement makes votes right often enough."""
  if 'suggested_min_agreement' not in curve:
    return (
      'A vote.min_agreement is suggested for the validation set alone '
      '(--dataset=validation): a run that is tuned on other questions cannot '
      'be measured by them.'
    )
  least, target = curve['suggested_min_agreement'], curve['target']
  if least is None:
    return (
      f'No agreement makes votes of {curve["samples"]} answers right in at '
      f'least {target:.0%} of all cases, with 95% confidence.'
    )
  (found,) = (t for t in curve['thresholds'] if t['agreement'] == least)
  return (
    f'From an agreement of {least:.2f} on, votes of {curve["samples"]} answers '
    f'are right in at least {target:.0%} of all cases, with 95% confidence: '
    f'{found["right"]} of {found["votes"]}, {found["kept"]:.0%} of all votes. '
    f'Suggested: vote.min_agreement={_at_most(least)}'
  )


def votes(curve: Mapping[str, Any]) -> str:
  """The reliability curve as a table in Markdown."""
  return table(
    ['agreement', 'votes', 'right', 'from there on', 'kept'],
    [
      [
        f'{least["agreement"]:.2f}',
        str(one['votes']),
        f'{one["accuracy"]:.1%} ({one["low"]:.1%}-{one["high"]:.1%})',
        f'{least["accuracy"]:.1%} ({least["low"]:.1%}-{least["high"]:.1%})',
        f'{least["kept"]:.0%}',
      ]
      for one, least in _bins_and_thresholds(curve)
    ],
  )


def _bins_and_thresholds(curve: Mapping[str, Any]) -> Iterable[tuple]:
  """Each bin with the threshold at which it begins."""
  at = {least['agreement']: least for least in curve['thresholds']}
  for one in curve['bins']:
    yield one, at[one['least']]


def _at_most(share: float) -> str:
  """Rounded down: 7 of 8 answers do not agree in 0.88."""
  return f'{math.floor(share * 1e4) / 1e4:g}'


def rows(record: Mapping[str, Any]) -> dict[str, str]:
  """A record of eval.jsonl as names and values, for people."""
  shown = {name: figure(record, name) for name in record['intervals']}
  settings = record['settings']
  shown['questions'] = f'{record["questions"]} of {settings["origin"]}'
  shown['decoding'] = f'greedy, up to {settings["max_tokens"]} tokens'
  if settings['samples']:
    shown['decoding'] += (
      f'; {settings["samples"]} answers of {settings["seeds"]} seeds at '
      f'temperature {settings["temperature"]}, top_p {settings["top_p"]}'
    )
  curve = record.get('reliability', {})
  if 'suggested_min_agreement' in curve:
    least = curve['suggested_min_agreement']
    shown['suggested vote.min_agreement'] = (
      'none is enough' if least is None else _at_most(least)
    )
  for name, value in record.get('collapsed', {}).items():
    shown[f'collapsed ({name})'] = collapse.describe(name, value)
  return shown


def figure(record: Mapping[str, Any], name: str) -> str:
  """A figure of a record of eval.jsonl, with its interval."""
  low, high = record['intervals'][name]
  return interval({'value': record[name], 'low': low, 'high': high})


def interval(one: Mapping[str, float], *, signed: bool = False) -> str:
  """A share and its interval, '0.912 (0.850-0.961)'."""
  sign, to = ('+', ' to ') if signed else ('', '-')
  low, high = f'{one["low"]:{sign}.3f}', f'{one["high"]:{sign}.3f}'
  return f'{one["value"]:{sign}.3f} ({low}{to}{high})'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table in Markdown; its cells are Markdown already."""
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def code(text: str) -> str:
  """Text that a model may have written, quoted, on one line, clipped."""
  text = ' '.join(
    ''.join(c if c.isprintable() else ' ' for c in text[: 4 * _LONGEST]).split()
  )
  if len(text) > _LONGEST:
    text = text[: _LONGEST - 1] + '…'
  if not text:
    return ''
  # A longer fence than any inside; a bar would end the cell even in code.
  fence = '`' * (1 + max(map(len, re.findall('`+', text)), default=0))
  pad = ' ' if '`' in text else ''
  return f'{fence}{pad}{text}{pad}{fence}'.replace('|', '\\|')


def _p_value(p: float) -> str:
  return '<0.001' if p < 0.001 else f'{p:.3f}'


def _to_json(tree: Any) -> bytes:
  return (json_text.dumps(tree, indent=2, default=_number) + '\n').encode()


def _number(x: Any) -> Any:
  if isinstance(x, np.generic):
    return x.item()
  raise TypeError(f'{x!r}: expected what JSON can hold')


def _write(path: epath.Path, content: bytes) -> None:
  temporary = path.parent / f'{path.name}.tmp'
  try:
    temporary.write_bytes(content)
    temporary.replace(path)
  except OSError as error:
    raise OSError(f'{path} could not be written: {error}') from error
