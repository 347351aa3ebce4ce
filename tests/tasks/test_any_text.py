"""Parsing, voting and scoring accept any text of a model."""

import dataclasses
import fractions
import functools
import random

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.config import game_schema, program_schema, schema, task_schema
from sqlm_jax.game import repetition, rewards, types, vote
from sqlm_jax.grading import answer_kinds
from sqlm_jax.grading import answers as canonical
from sqlm_jax.sandbox import unit_tests
from sqlm_jax.selfplay import background_grading, scoring
from sqlm_jax.tasks import coding, prompted

FORBIDDEN = ('<|im_start|>', '<|im_end|>')
# Complete and partial markup, and texts that have broken parsers.
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
  config = task_schema.Task(
    name='any',
    topics=('a',),
    proposer_prompt='{topic}: ',
    proposer_stop=('END',),
    solver_prompt='{question} {topic} = ',
    solver_variants=('Solve {question}{question}',),
    solver_stop=('\n\n',),
    **(FORMATS | EXPRESSION)[name],
  )
  return prompted.make_task(config, num_topics=1, forbidden=FORBIDDEN)


@pytest.mark.parametrize('name', FORMATS)
@hypothesis.given(response=TEXTS)
def test_any_response_can_be_read_as_a_question(name, response):
  task = make_task(name)
  problem = task.read_question(response)
  assert problem == task.read_question(response)
  assert problem.ok == (not problem.reason)
  task.true_answer(problem.text)
  if problem.ok:
    assert problem.text.strip()
    assert not any(special in problem.text for special in FORBIDDEN)
    # A question replaces only its own placeholder.
    once, twice = task.solver_prompts(problem.text)
    assert once == f'{problem.text} {{topic}} = '
    assert twice == f'Solve {problem.text}{problem.text}'


@pytest.mark.parametrize('name', FORMATS)
@hypothesis.given(responses=GROUPS)
def test_any_responses_can_be_parsed_and_graded(name, responses):
  task = make_task(name)
  answers = task.read_answers(responses)
  assert len(answers) == len(responses)
  assert answers == task.read_answers(responses)
  for answer in answers:
    # An answer must equal itself, unlike nan.
    assert vote.majority([answer] * 2).count == 2 * (answer is not None)
    str(answer)
  (graded,) = task.grade([responses], [types.Example('?', responses[0])])
  for grade in graded:
    assert type(grade.right) is bool
    assert grade.answer is not None or not grade.right


CONFIGS = st.builds(
  schema.Config,
  solver=st.builds(
    game_schema.Solver,
    rewards=st.builds(
      game_schema.SolverRewards,
      majority=st.sampled_from([0.0, 1.0]),
      format=st.sampled_from([0.0, 1.0]),
    ),
  ),
  proposer=st.builds(
    game_schema.Proposer,
    rewards=st.builds(
      game_schema.ProposerRewards,
      **{
        name: st.sampled_from([0.0, 0.5])
        for name in (*rewards.PROPOSER_TERMS, *rewards.PENALTIES)
      },
    ),
    reward_over=st.sampled_from(['group', 'sample']),
    min_similarity=st.sampled_from([0.0, 0.9, 1.0]),
  ),
  tests=st.builds(
    program_schema.Tests, unsolved=st.sampled_from(['count', 'leave_out'])
  ),
  vote=st.builds(
    game_schema.Vote,
    weights=st.sampled_from(['equal', 'likelihood']),
    ties=st.sampled_from(['none', 'first']),
    min_agreement=st.sampled_from([0.0, 0.6, 1.0]),
  ),
)


def grade(problems, texts, task):
  """Grades the same texts as answers to every readable problem."""
  readable = [problem for problem in problems if problem.ok]
  return background_grading.grade_answers(
    readable, [texts] * len(readable), task
  )


@pytest.mark.parametrize('name', FORMATS)
@hypothesis.given(
  proposals=GROUPS,
  responses=GROUPS,
  votes=GROUPS,
  config=CONFIGS,
  data=st.data(),
)
def test_any_texts_are_scored(name, proposals, responses, votes, config, data):
  task = make_task(name)
  problems = [task.read_question(text) for text in proposals]
  texts = [*responses, *votes]
  graded = grade(problems, texts, task)
  weights = st.lists(st.floats(0, 1), min_size=len(texts), max_size=len(texts))
  questions = scoring.score_questions(
    problems,
    {
      i: scoring.Answers(answers, data.draw(weights), len(responses))
      for i, answers in enumerate(graded)
    },
    task,
    config=config,
    step=0,
    memory=repetition.Memory(size=3).add(proposals[:1]),
    coin_of=random.Random,
  )
  assert [question.problem for question in questions] == problems
  for question in questions:
    assert -1 <= question.proposer_reward <= 1.5
    if not question.problem.ok:
      assert question.proposer_reward == -1
      assert question.vote is None
      continue
    assert len(question.solver_rewards) == len(responses)
    assert all(0 <= reward <= 2 for reward in question.solver_rewards)
    assert question.vote.count <= question.vote.size
    assert question.vote.size == len(responses) + len(votes)
    all_answers = question.answers + question.voter_answers
    if question.vote.answer is None:
      assert question.vote.count == 0
      assert question.vote.reason
    else:
      assert question.vote.count == all_answers.count(question.vote.answer)


class FakeSandbox:
  """A sandbox in which programs that contain 'print' pass all tests."""

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
    program_schema.Tests(
      min_count=1, max_count=3, program='x = {answer}{answer}'
    ),
    FakeSandbox,
  )


@hypothesis.given(proposals=GROUPS, responses=GROUPS, config=CONFIGS)
def test_any_programs_are_scored(proposals, responses, config):
  task = coding_task()
  weights = game_schema.SolverRewards(majority=0.0, tests=1.0, format=0.5)
  solver = dataclasses.replace(config.solver, rewards=weights)
  config = dataclasses.replace(config, solver=solver)
  problems = [task.read_question(text) for text in proposals]
  likelihoods = [0.5] * len(responses)
  questions = scoring.score_questions(
    problems,
    {
      i: scoring.Answers(answers, likelihoods, len(responses))
      for i, answers in enumerate(grade(problems, responses, task))
    },
    task,
    config=config,
    step=0,
    memory=repetition.Memory(),
    coin_of=random.Random,
  )
  for question in questions:
    assert -1 <= question.proposer_reward <= 1.5
    assert question.vote is None
    if question.problem.ok:
      assert question.problem.tests
      assert all(0 <= r <= 1.5 for r in question.solver_rewards)
      shape = [len(row) for row in question.results]
      assert shape == [len(question.problem.tests)] * len(responses)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(responses=GROUPS)
def test_any_expressions_can_be_compared(responses):
  """Expressions are parsed in worker processes, so there are fewer examples."""
  task = make_task('expression')
  answers = task.read_answers(responses)
  assert len(answers) == len(responses)
  assert vote.majority(answers).count <= len(responses)
  for answer in answers:
    hash(answer)


@pytest.mark.parametrize('kind', ['number', 'text', 'choice'])
@hypothesis.given(text=TEXTS)
def test_canonical_answers_are_canonical(kind, text):
  parse = answer_kinds.make_parser(kind)
  (answer,) = parse([text])
  printed = str(answer)
  if answer is not None and (kind != 'number' or len(printed) <= 64):
    assert parse([printed, f' {printed}\n']) == (answer, answer)


@hypothesis.given(value=st.fractions())
def test_number_parses_every_short_fraction(value):
  hypothesis.assume(len(str(value)) <= 64)
  assert canonical.number(str(value)) == value


@hypothesis.given(text=TEXTS, other=TEXTS)
def test_any_output_equals_itself(text, other):
  assert unit_tests.same_output(text, text)
  assert isinstance(unit_tests.same_output(text, other), bool)


@pytest.mark.parametrize('piece', PIECES, ids=lambda piece: ascii(piece[:20]))
def test_single_and_repeated_pieces(piece):
  for text in (piece, piece * (20_000 // len(piece))):
    for task in map(make_task, FORMATS):
      problem = task.read_question(text)
      assert problem.text in text
      truth = task.true_answer(text)
      assert isinstance(truth, fractions.Fraction | None)
      answers = task.read_answers([text, f'{text}1', text])
      assert answers[0] == answers[2]
      ((graded,),) = task.grade([[text]], [types.Example('?', text)])
      assert not graded.right or answers[0] is not None
