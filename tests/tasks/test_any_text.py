"""No text of a model, however odd, breaks reading, voting or scoring."""

import fractions
import functools
import random

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.game import repetition, rewards, types, vote
from sqlm_jax.grading import answer_kinds
from sqlm_jax.grading import answers as canonical
from sqlm_jax.sandbox import unit_tests
from sqlm_jax.selfplay import scoring
from sqlm_jax.tasks import coding, prompted

FORBIDDEN = ('<|im_start|>', '<|im_end|>')
# What formats are made of, whole and cut, and what has broken parsers.
PIECES = (
  *FORBIDDEN,
  *('<answer>', '</answer>', '<answer', '<think>', '</think>', 'Problem: '),
  *('```', '```python\n', 'print(1)', '=>', '1 => 2\n', '3 => 4\n', '\n', '\r'),
  *('7', '1,000', '-', '+', '/', '1/0', '0.5', '%', '=', 'x = ', '(2, 3)'),
  *(r'\frac{1}{2}', r'\frac{', '}' * 50, '{' * 50, '(' * 99, '{question}'),
  *('{topic}', '{answer}', 'A', '(b)', 'Answer: C', '9' * 400, '1e999', 'nan'),
  *('\0', '\ud800', '\udfff', '\u202e', '\u200d', '\ufeff', '\x1b[2J', '٣'),
  *('½', '²', '𝟚', 'ﬁ', 'İ', 'e\u0301' * 9, ' ' * 99, '\u2028', '|' * 20),
)
TEXTS = st.lists(
  st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=9
).map(''.join)
GROUPS = st.lists(TEXTS, min_size=1, max_size=5)

TAGGED = r'<answer>(.*?)</answer>'
FORMATS = {
  'number': {'answer_kind': 'number'},
  'tagged number': {'answer_kind': 'number', 'answer_pattern': TAGGED},
  'text': {'answer_kind': 'text', 'question_pattern': r'Problem: (.+)$'},
  'choice': {'answer_kind': 'choice', 'options': ('one', 'two', 'B')},
  'letters': {'answer_kind': 'choice', 'answer_pattern': r'\([a-z]\)'},
  'arithmetic': {
    'answer_kind': 'number',
    'checker': 'arithmetic',
    'question_pattern': r'^[-+*/\d .()]+$',
  },
}

EXPRESSION = {'expression': {'answer_kind': 'expression'}}


@functools.cache
def make_task(name):
  settings = {'answer_pattern': '', 'question_pattern': '', 'checker': 'none'}
  return prompted.make_task(
    name='any',
    topics=('a',),
    proposer_prompt='{topic}: ',
    proposer_stop=('END',),
    solver_prompts=('{question} {topic} = ', 'Solve {question}{question}'),
    solver_stop=('\n\n',),
    num_topics=1,
    forbidden=FORBIDDEN,
    **settings | (FORMATS | EXPRESSION)[name],
  )


@pytest.mark.parametrize('name', FORMATS)
@hypothesis.given(response=TEXTS)
def test_any_response_is_a_question_or_is_not(name, response):
  task = make_task(name)
  problem = task.read_question(response)
  assert problem == task.read_question(response)
  assert problem.ok == (not problem.reason)
  task.true_answer(problem.text)
  if problem.ok:
    assert problem.text.strip()
    assert not any(special in problem.text for special in FORBIDDEN)
    # A question fills its place, once, and no other.
    one, twice = task.solver_prompts(problem.text)
    assert one == f'{problem.text} {{topic}} = '
    assert twice == f'Solve {problem.text}{problem.text}'


@pytest.mark.parametrize('name', FORMATS)
@hypothesis.given(responses=GROUPS)
def test_any_responses_are_answers_or_blanks(name, responses):
  task = make_task(name)
  answers = task.read_answers(responses)
  assert len(answers) == len(responses)
  assert answers == task.read_answers(responses)
  for answer in answers:
    # Nothing like nan, which would not even agree with itself.
    assert vote.majority([answer] * 2).count == 2 * (answer is not None)
    str(answer)
  (graded,) = task.grade([responses], [types.Example('?', responses[0])])
  assert all(type(one.right) is bool for one in graded)
  assert all(one.answer is not None or not one.right for one in graded)


RULES = st.builds(
  scoring.Rules,
  solver_rewards=st.fixed_dictionaries(
    {name: st.sampled_from([0.0, 1.0]) for name in ('majority', 'format')}
  ),
  solver_schedule=st.just(()),
  proposer_rewards=st.fixed_dictionaries(
    {
      name: st.sampled_from([0.0, 0.5])
      for name in (*rewards.PROPOSER_TERMS, *rewards.PENALTIES)
    }
  ),
  proposer_schedule=st.just(()),
  unreadable_reward=st.just(-1.0),
  band=st.just((0.3, 0.8)),
  over=st.sampled_from(rewards.OVER),
  unsolved=st.sampled_from(unit_tests.UNSOLVED),
  similarity=st.sampled_from([0.0, 0.9, 1.0]),
  weights=st.sampled_from(vote.WEIGHTS),
  ties=st.sampled_from(vote.TIES),
  min_agreement=st.sampled_from([0.0, 0.6, 1.0]),
)


@pytest.mark.parametrize('name', FORMATS)
@hypothesis.given(
  proposals=GROUPS, responses=GROUPS, votes=GROUPS, rules=RULES, data=st.data()
)
def test_any_texts_are_judged(name, proposals, responses, votes, rules, data):
  task = make_task(name)
  problems = [task.read_question(text) for text in proposals]
  weights = lambda texts: data.draw(
    st.lists(st.floats(0, 1), min_size=len(texts), max_size=len(texts))
  )
  groups = [
    scoring.Answers(responses, weights(responses), votes, weights(votes))
    for problem in problems
    if problem.ok
  ]
  verdicts = scoring.judge(
    problems,
    groups,
    task,
    rules,
    step=0,
    coin=random.Random,
    asked_before=repetition.Memory(size=3).add(proposals[:1]),
  )
  assert [verdict.problem for verdict in verdicts] == problems
  for verdict in verdicts:
    assert -1 <= verdict.proposer_reward <= 1.5
    if not verdict.problem.ok:
      assert verdict.proposer_reward == -1
      assert verdict.vote is None
      continue
    assert len(verdict.solver_rewards) == len(responses)
    assert all(0 <= reward <= 2 for reward in verdict.solver_rewards)
    assert verdict.vote.count <= verdict.vote.size
    assert verdict.vote.size == len(responses) + len(votes)
    everybody = verdict.answers + verdict.votes
    if verdict.vote.answer is None:
      assert verdict.vote.count == 0
      assert verdict.vote.reason
    else:
      assert verdict.vote.count == everybody.count(verdict.vote.answer)


class FakeSandbox:
  """Passes what mentions print: programs are not the matter here."""

  def run(self, programs):
    return [
      [types.Result('passed' if 'print' in source else 'wrong')] * len(tests)
      for source, tests in programs
    ]

  def close(self):
    pass


@functools.cache
def coding_task():
  return coding.with_programs(
    make_task('number')._replace(read_answers=make_task('text').read_answers),
    tests=coding.Tests(r'(?m)^(.*?)=>(.*)$', min_count=1, max_count=3),
    program='x = {answer}{answer}',
    open_sandbox=FakeSandbox,
  )


@hypothesis.given(proposals=GROUPS, responses=GROUPS, rules=RULES)
def test_any_programs_are_judged(proposals, responses, rules):
  task = coding_task()
  rules = rules._replace(solver_rewards={'tests': 1.0, 'format': 0.5})
  problems = [task.read_question(text) for text in proposals]
  likelihoods = [0.5] * len(responses)
  verdicts = scoring.judge(
    problems,
    [scoring.Answers(responses, likelihoods) for p in problems if p.ok],
    task,
    rules,
    step=0,
    coin=random.Random,
    asked_before=repetition.Memory(),
  )
  for verdict in verdicts:
    assert -1 <= verdict.proposer_reward <= 1.5
    assert verdict.vote is None
    if verdict.problem.ok:
      assert verdict.problem.tests
      assert all(0 <= r <= 1.5 for r in verdict.solver_rewards)
      shape = [len(row) for row in verdict.results]
      assert shape == [len(verdict.problem.tests)] * len(responses)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(responses=GROUPS)
def test_any_expressions_are_compared(responses):
  """In processes of their own, so fewer examples."""
  task = make_task('expression')
  answers = task.read_answers(responses)
  assert len(answers) == len(responses)
  assert vote.majority(answers).count <= len(responses)
  for answer in answers:
    hash(answer)


@pytest.mark.parametrize('kind', ['number', 'text', 'choice'])
@hypothesis.given(text=TEXTS)
def test_a_canonical_answer_reads_back_to_itself(kind, text):
  read = answer_kinds.make_reader(kind)
  (answer,) = read([text])
  written = str(answer)
  if answer is not None and (kind != 'number' or len(written) <= 64):
    assert read([written, f' {written}\n']) == (answer, answer)


@hypothesis.given(value=st.fractions())
def test_every_fraction_that_is_not_too_long_is_a_number(value):
  hypothesis.assume(len(str(value)) <= 64)
  assert canonical.number(str(value)) == value


@hypothesis.given(text=TEXTS, other=TEXTS)
def test_any_output_is_the_same_as_itself(text, other):
  assert unit_tests.same_output(text, text)
  assert isinstance(unit_tests.same_output(text, other), bool)


@pytest.mark.parametrize('piece', PIECES, ids=lambda piece: ascii(piece[:20]))
def test_a_piece_alone_and_very_often(piece):
  for text in (piece, piece * (20_000 // len(piece))):
    for task in map(make_task, FORMATS):
      problem = task.read_question(text)
      assert problem.text in text
      truth = task.true_answer(text)
      assert isinstance(truth, fractions.Fraction | None)
      found = task.read_answers([text, f'{text}1', text])
      assert found[0] == found[2]
      ((graded,),) = task.grade([[text]], [types.Example('?', text)])
      assert not graded.right or found[0] is not None
