"""Shows an update or the history of a question on the terminal."""

import collections
from collections.abc import Iterable, Sequence

import rich
import rich.box
import rich.console
import rich.table
import rich.text

from sqlm_jax import display
from sqlm_jax.reporting import why

_QUESTION_WIDTH, _ANSWER_WIDTH = 40, 20
_RESPONSE_WIDTH = 300
_FILE_WIDTH = 200
# These columns have texts, which are wrapped on a narrow terminal. All others
# have numbers, which would be wrong if they were cut.
_TEXTS = {'question', 'from', 'vote', 'paid by', 'answer', 'reason', 'refused'}
_SHOWN_STEPS = 12  # steps that a list of updates shows
_FIGURES = ('loss', 'kl', 'update_kl', 'grad_norm', 'updates')


def show_update(
  update: why.Update, *, console: rich.console.Console | None = None
) -> None:
  """Shows the questions, answers, votes and weights of an update."""
  console = console or _console()
  solved = sorted(
    (asked for asked in update.asked if asked.answers),
    key=lambda asked: -asked.share,
  )
  refused = collections.Counter(
    asked.reason for asked in update.asked if not asked.answers
  )
  rows = {
    'trained on': ', '.join(
      f'{count} {_OF_ROLE[role]}' for role, count in update.trained.items()
    )
    or 'nothing',
    'questions': f'{len(solved)} solved, {refused.total()} refused',
    'sampled by': ', '.join(
      f'{role} after {steps} optimizer steps'
      for role, steps in update.policy_steps.items()
    ),
  }
  for role in ('solver', 'proposer'):
    figures = [
      f'{name} {value:.4g}'
      for name in _FIGURES
      # A value that was not finite is None.
      if (value := update.metrics.get(f'train/{role}/{name}')) is not None
    ]
    if figures:
      rows[f'update of the {role}'] = ', '.join(figures)
  if refused:
    rows['refused'] = _join_counts(refused)
  rows |= {name.replace('_', ' '): x for name, x in update.footer.items()}
  display.summary(f'Step {update.step}', rows, console=console)
  console.print(_answers_table(solved))
  rest = [asked for asked in update.asked if not asked.answers]
  if rest:
    console.print(_refused_table(rest))


def show_history(
  history: why.History, *, console: rich.console.Console | None = None
) -> None:
  """Shows where a question came from, and the updates that it has been in."""
  console = console or _console()
  first = history.asked[0]
  trained = sorted({a.step for a in history.asked if a.num_trained})
  rows = {'first asked': _describe_origin(first)}
  if first.proposal:
    response = display.clip(first.proposal['response'], _RESPONSE_WIDTH)
    rows |= {
      'response': response,
      'log-probability': f'{first.proposal["logprob"]:.3f}',
    }
  rows |= {
    'evaluation sets': ', '.join(history.evaluation_sets) or 'in none',
    'updates': f'in {len(trained)}{_list_steps(trained)}',
  }
  for number, event in enumerate(history.events, start=1):
    verdict, reviewer = event.get('verdict'), event.get('reviewer') or 'unnamed'
    answer = f' {event["answer"]!r}' if event.get('answer') else ''
    rows[f'verdict {number}'] = display.clip(
      f'{verdict}{answer} by {reviewer}, {event.get("time")}', _RESPONSE_WIDTH
    )
  title = display.clip(history.question, _RESPONSE_WIDTH)
  display.summary(title, rows, console=console)
  table = _table(
    *('step', 'from', 'vote', 'agree', 'label', 'answers', 'trained'),
    *('right', 'share', 'reason'),
  )
  for asked in history.asked:
    checked = [a for a in asked.answers if a.right is not None]
    count = sum(a.count for a in checked)
    right = sum(a.count for a in checked if a.right)
    table.add_row(
      str(asked.step),
      _source(asked),
      _text(asked.vote, _ANSWER_WIDTH),
      _percent(asked.vote_share),
      _label_of(asked),
      str(sum(a.count for a in asked.answers)),
      str(asked.num_trained),
      _percent(right / count if count else None),
      _percent(asked.share) if asked.num_trained else '',
      _reason(asked),
    )
  console.print(table)


_OF_ROLE = {'solver': 'answers', 'proposer': 'proposals'}


def _answers_table(solved: Sequence[why.Asked]) -> rich.table.Table:
  table = _table(
    *('question', 'from', 'vote', 'agree', 'label', 'answer', 'number'),
    *('reward', 'advantage', 'checker', 'share', 'reason'),
  )
  for asked in solved:
    cells = [
      _text(asked.question, _QUESTION_WIDTH),
      _source(asked),
      _text(asked.vote, _ANSWER_WIDTH),
      _percent(asked.vote_share),
      _label_of(asked),
    ]
    share, reason = _percent(asked.share), _reason(asked)
    for answers in asked.answers:
      right = {True: 'right', False: 'wrong', None: ''}[answers.right]
      table.add_row(
        *cells,
        _text(answers.answer, _ANSWER_WIDTH, none='unparsed'),
        str(answers.count),
        _number(answers.reward),
        _number(answers.advantage, sign='+'),
        right,
        share,
        reason,
      )
      # Only the first row of a question describes the question.
      cells, share, reason = [''] * len(cells), '', ''
  return table


def _refused_table(refused: Iterable[why.Asked]) -> rich.table.Table:
  table = _table('refused', 'from', 'reward', 'advantage', 'reason')
  for asked in refused:
    proposal = asked.proposal
    table.add_row(
      _text(asked.question or proposal['response'], 2 * _QUESTION_WIDTH),
      _source(asked),
      _number(proposal['reward']),
      _number(proposal['advantage'], sign='+'),
      _reason(asked),
    )
  return table


def _table(*titles: str) -> rich.table.Table:
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
  for title in titles:
    table.add_column(title, no_wrap=title not in _TEXTS, overflow='fold')
  return table


def _console() -> rich.console.Console:
  console = rich.get_console()
  # A file or a pipe has no width that a table would have to fit in.
  return (
    console if console.is_terminal else rich.console.Console(width=_FILE_WIDTH)
  )


def _describe_origin(asked: why.Asked) -> str:
  if asked.source == why.PROPOSED:
    topic = display.clip(asked.topic or 'unknown', _QUESTION_WIDTH)
    steps = asked.proposal['policy_step']
    return (
      f'proposed in step {asked.step} for the topic {topic!r}, by weights '
      f'after {steps} optimizer steps'
    )
  if asked.source == why.REPLAYED:
    return f'asked again in step {asked.step} because of a verdict'
  return f'given by task.questions in step {asked.step}'


def _list_steps(steps: Sequence[int]) -> str:
  if not steps:
    return ''
  shown = ', '.join(map(str, steps[:_SHOWN_STEPS]))
  rest = len(steps) - _SHOWN_STEPS
  return f': steps {shown}' + (f' and {rest} more' if rest > 0 else '')


def _source(asked: why.Asked) -> rich.text.Text:
  if asked.source == why.PROPOSED and asked.topic:
    return _text(asked.topic, _ANSWER_WIDTH)
  return rich.text.Text(asked.source)


def _label_of(asked: why.Asked) -> rich.text.Text:
  """Returns the source of the label, with the answer of a verdict."""
  if asked.true_answer is not None:
    return _text(f'verdict: {asked.true_answer}', 2 * _ANSWER_WIDTH)
  return rich.text.Text('vote' if asked.vote is not None else '')


def _reason(asked: why.Asked) -> rich.text.Text:
  reason = asked.reason or ''
  if asked.leaked:
    reason = f'{reason} (leaked: {asked.leaked})'.strip()
  if asked.verdict and asked.true_answer is None:
    reason = f'{reason} (verdict: {asked.verdict.kind})'.strip()
  return _text(reason, _QUESTION_WIDTH)


def _join_counts(counts: collections.Counter[str | None]) -> str:
  return ', '.join(f'{count} {name}' for name, count in counts.most_common())


def _text(text: str | None, width: int, none: str = '–') -> rich.text.Text:
  """Returns untrusted text on one line, without markup."""
  return rich.text.Text(none if text is None else display.clip(text, width))


def _number(value: float | None, sign: str = '-') -> str:
  return '' if value is None else f'{value:{sign}.3g}'


def _percent(value: float | None) -> str:
  return '' if value is None else f'{value:.0%}'
