"""Tests of what made an update, and of where a question came from."""

import io

import pytest
import rich.console

from sqlm_jax.reporting import modes, why, why_tables
from sqlm_jax.workdir import reviews
from tests.reporting import reported_runs


@pytest.fixture
def workdir(tmp_path):
  return reported_runs.write_run(tmp_path / 'run', before='0110')


def shown(show, *args, width=200) -> str:
  console = rich.console.Console(file=io.StringIO(), width=width)
  show(*args, console=console)
  return console.file.getvalue()


def test_an_update_in_numbers(workdir):
  update = why.update(workdir, 1)
  assert update.policy_steps == {'proposer': 5, 'solver': 5}
  assert update.trained == {'proposer': 3, 'solver': 12}
  assert update.metrics['train/solver/loss'] == 0.25
  assert update.footer == reported_runs.FOOTER
  first, second, again, refused = update.asked
  # The absolute advantages are 1.5, 0 and 1.5.
  assert [asked.share for asked in update.asked] == [0.5, 0, 0.5, 0]
  assert [asked.source for asked in update.asked] == [
    why.PROPOSED,
    why.PROPOSED,
    why.REPLAYED,
    why.PROPOSED,
  ]
  assert first.answers == (
    why.Answers('2', 3, 3, 1.0, 0.25, True),
    why.Answers(None, 1, 1, 0.0, -0.75, False),
  )
  assert (second.vote, second.vote_share, second.topic) == ('5', 1.0, 'sums')
  assert (again.vote, again.true_answer, again.topic) == ('7', '6', None)
  assert (refused.question, refused.reason) == (None, 'format')
  assert refused.proposal['response'] == 'why?'


def test_equal_questions_of_a_step_have_their_own_proposals(tmp_path):
  reported_runs.write_run(tmp_path, questions=('1 + 1', '1 + 1'))
  first, second, *_ = why.update(tmp_path, 0).asked
  assert [first.proposal['sample'], second.proposal['sample']] == [0, 1]


def test_an_update_knows_the_verdicts_that_its_step_had_read(workdir):
  reported_runs.add_verdict(workdir, '3 + 3', 'correct', answer='6')
  reviews.append_count(workdir, 1, 1)
  reported_runs.add_verdict(workdir, '1 + 1', 'exclude')  # later
  kinds = [
    [asked.verdict and asked.verdict.kind for asked in update.asked]
    for update in (why.update(workdir, step) for step in (0, 1))
  ]
  assert kinds == [[None] * 4, [None, None, 'correct', None]]


def test_the_history_of_a_question(workdir):
  reported_runs.add_verdict(workdir, '1 + 1', 'accept')
  history = why.history(workdir, ' 1+1 =')  # the same calculation
  assert history.question == '1 + 1'
  assert [asked.step for asked in history.asked] == [0, 1]
  assert [asked.num_trained for asked in history.asked] == [4, 4]
  assert [event['reviewer'] for event in history.events] == ['ann']
  assert history.evaluation_sets == ()
  assert why.evaluated_questions(workdir)['test'][1]['question'] == '1 + 0'


def test_a_question_of_an_evaluation_set_is_named_as_such(tmp_path):
  reported_runs.write_run(tmp_path, before='01', questions=('1 + 0', '2 + 2'))
  assert why.history(tmp_path, '1 + 0').evaluation_sets == ('test',)


def test_an_unknown_step_or_question_is_an_error_that_names_others(workdir):
  with pytest.raises(ValueError, match='--step=7: expected one of 0 to 1'):
    why.update(workdir, 7)
  with pytest.raises(ValueError, match=r"--question='1 \+ 4': .* '1 \+ 1'"):
    why.history(workdir, '1 + 4')
  with pytest.raises(ValueError, match='either --step=N or --question=TEXT'):
    modes.explain(workdir)


def test_the_terminal_shows_the_largest_share_first(workdir):
  lines = shown(why_tables.show_update, why.update(workdir, 0)).splitlines()
  text = '\n'.join(lines)
  assert 'trained on            3 proposals, 12 answers' in text
  assert 'loss 0.25' in text
  assert '1 format' in text
  questions = [line.split('  ')[0].strip() for line in lines if '%' in line]
  assert questions == ['1 + 1', '3 + 3', '2 + 2']
  (line,) = [line for line in lines if '3 + 3' in line]
  assert line.split() == [
    '3',
    '+',
    '3',
    'replayed',
    '7',
    '75%',
    'verdict:',
    '6',
    '7',
    '3',
    '0',
    '-0.25',
    'wrong',
    '50%',
  ]


def test_no_number_is_cut_in_a_pipe_or_on_a_narrow_terminal(workdir, capsys):
  why_tables.show_update(why.update(workdir, 0))
  for text in (
    capsys.readouterr().out,
    shown(why_tables.show_update, why.update(workdir, 0), width=80),
  ):
    words = text.split()
    assert {'-0.25', '+0.25', '+0.75', '50%', 'right', 'wrong'} <= set(words)
    assert '…' not in text


def test_a_metric_that_was_not_finite_is_left_out(workdir):
  update = why.update(workdir, 0)
  metrics = {'train/solver/loss': None, 'train/solver/kl': 0.5}
  text = shown(why_tables.show_update, update._replace(metrics=metrics))
  assert 'update of the solver  kl 0.5' in text


def test_the_terminal_shows_the_history(workdir):
  reported_runs.add_verdict(workdir, '1 + 1', 'correct', answer='2')
  text = shown(why_tables.show_history, why.history(workdir, '1 + 1'))
  assert "proposed in step 0 for the topic 'sums'" in text
  assert 'in 2: steps 0, 1' in text
  assert "correct '2' by ann, 2026-12-01T09:30:00Z" in text


@pytest.mark.parametrize('question', reported_runs.HOSTILE[:3])
def test_generated_text_cannot_control_the_terminal(tmp_path, question):
  reported_runs.write_run(tmp_path, questions=(question, '\x1b[2J[bold]x'))
  text = shown(why_tables.show_update, why.update(tmp_path, 0))
  text += shown(why_tables.show_history, why.history(tmp_path, question))
  assert '\x1b' not in text
  assert '\u202e' not in text
  assert '[2J[bold]x' in text
