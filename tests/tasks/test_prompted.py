"""Tasks built from templates and patterns."""

import fractions
import os

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.config import task_schema
from sqlm_jax.game import rewards, types
from sqlm_jax.grading import answers
from sqlm_jax.tasks import prompted
from sqlm_jax.text import extraction


def make_task(
  *, num_topics=2, group_size=1, wrap=lambda prompt: prompt, **changes
):
  settings = {
    'name': 'sums',
    'topics': ('a', 'b', 'c'),
    'proposer_prompt': 'Ask about {topic}: ',
    'proposer_stop': ('\n', 'END'),
    'question_pattern': r'^\d \+ \d$',
    'solver_prompt': '{question} = ',
    'solver_stop': ('\n',),
    'answer_pattern': '',
    'answer_kind': 'number',
    'checker': 'arithmetic',
  }
  return prompted.make_task(
    task_schema.Task(**settings | changes),
    num_topics=num_topics,
    group_size=group_size,
    wrap=wrap,
    forbidden=('<|end|>',),
  )


def grade(task, responses, true):
  (graded,) = task.grade([responses], [types.Example('?', true)])
  return tuple(response.right for response in graded)


def test_topics_rotate_over_steps():
  topics = make_task().topics
  by_step = [topics(step) for step in range(4)]
  assert by_step == [('a', 'b'), ('c', 'a'), ('b', 'c'), ('a', 'b')]


def test_topics_repeat_if_there_are_more_groups():
  assert make_task(num_topics=4).topics(1) == ('b', 'c', 'a', 'b')


@pytest.mark.parametrize(
  'response, expected',
  [
    ('3 + 4', types.Problem('3 + 4')),
    ('  3 + 4 \nQuestion: 1 + 1', types.Problem('3 + 4')),
    ('3 + 4END', types.Problem('3 + 4')),
    ('3 + 4END\n', types.Problem('3 + 4')),  # the first stop string counts
    ('', types.Problem('', ok=False, reason='format')),
    ('\n3 + 4', types.Problem('', ok=False, reason='format')),
    (' \t', types.Problem('', ok=False, reason='format')),
    ('3 + 44', types.Problem('3 + 44', ok=False, reason='format')),
    ('What is 3 + 4?', types.Problem('What is 3 + 4?', False, 'format')),
  ],
)
def test_read_question(response, expected):
  assert make_task().read_question(response) == expected


def test_any_text_is_a_question_without_a_pattern():
  task = make_task(question_pattern='', proposer_stop=())
  assert task.read_question(' why?\nso ') == types.Problem('why?\nso')
  assert not task.read_question(' \n').ok


def test_the_group_of_the_pattern_is_the_question():
  task = make_task(question_pattern=r'<q>(.*?)</q>', proposer_stop=())
  assert task.read_question('so <q> 1 + 1 </q>.') == types.Problem('1 + 1')
  assert task.read_question('<q></q>').reason == 'format'


def test_questions_with_special_tokens_are_unreadable():
  task = make_task(question_pattern='')
  assert task.read_question('a<|end|>b') == types.Problem(
    'a<|end|>b', ok=False, reason='special_token'
  )


@pytest.mark.parametrize(
  'response, expected',
  [
    ('7', 7),
    (' 07.0\nmore', 7),
    ('7\n8', 7),  # text after a stop string is ignored
    ('seven', None),
    ('', None),
    ('\n7', None),
    ('3 + 4', None),  # not a single number
  ],
)
def test_read_answers(response, expected):
  assert make_task().read_answers([response]) == (expected,)


def test_the_last_match_of_the_pattern_is_the_answer():
  task = make_task(answer_pattern=r'<answer>(.*?)</answer>', solver_stop=())
  text = '<answer>1</answer> no: <answer>1/2</answer>'
  answers = task.read_answers([text, '1/2'])
  assert answers == (fractions.Fraction(1, 2), None)


def test_text_answers_are_canonical():
  task = make_task(answer_kind='text')
  assert task.read_answers([' PARIS ']) == ('paris',)
  assert grade(task, [' PARIS ', 'Rome'], 'Paris.') == (True, False)


def test_true_answer():
  assert make_task().true_answer('3 + 4') == 7
  assert make_task().true_answer('three') is None
  assert make_task(checker='none').true_answer('3 + 4') is None


@pytest.mark.parametrize(
  'texts', [['20', 'x = 20', '20'], ['x = 20', '$20', '20'], ['x = 20'] * 3]
)
def test_is_true_does_not_depend_on_the_group(texts):
  task = make_task(answer_kind='expression')
  true = task.true_answer('12 + 8')
  answers = task.read_answers(texts)
  assert all(task.is_true(answer, true) for answer in answers)
  assert rewards.right(answers, true, task.is_true) == (1, 1, 1)
  assert grade(task, texts, '20') == (True, True, True)
  assert not task.is_true(None, true)
  assert not task.is_true(answers[0], fractions.Fraction(21))


def test_grades_do_not_depend_on_other_answers():
  task = make_task(answer_kind='expression')
  assert grade(task, ['5 cm', '5 cm'], '5') == (True, True)
  assert grade(task, ['5 cm', '5 m', '6', ''], '5') == (
    True,
    True,
    False,
    False,
  )


def test_answers_are_graded_by_value():
  grades = grade(make_task(), ['2', ' 2.0\n', '3', 'two', ''], '02')
  assert grades == (True, True, False, False, False)


@pytest.mark.parametrize(
  'kind, pair',
  [
    ('number', ('1 + 1', 'two')),
    ('number', ('1 / 0', '')),
    ('choice', ('which?', 'none of them')),
    ('expression', ('how many?', 'no idea!')),
  ],
)
def test_unparsed_true_answers_are_refused(kind, pair):
  with pytest.raises(
    ValueError, match=f'expected a true answer of kind {kind!r}'
  ):
    make_task(answer_kind=kind).to_example(types.Example(*pair))


def test_each_group_is_graded_by_its_example():
  task = make_task()
  examples = [types.Example('1 + 1', '2'), types.Example('2 + 2', '4')]
  graded = task.grade([['2', '4'], ['2', '4']], examples)
  assert graded == [((2, True), (4, False)), ((2, False), (4, True))]


def test_self_test_detects_a_broken_parser(monkeypatch):
  examples = [types.Example('1 + 1', '2')]
  make_task().self_test(examples)
  monkeypatch.setitem(answers.KINDS, 'number', lambda text: 2)
  with pytest.raises(RuntimeError, match='failed its self-test'):
    make_task().self_test(examples)


def test_choices():
  task = make_task(
    answer_kind='choice',
    options=('a scratch', 'a dent'),
  )
  letters = task.read_answers(['B', 'Answer: (b)', 'a dent', 'a hole', 'A'])
  assert letters == ('B', 'B', 'B', None, 'A')
  assert grade(task, ['a dent', 'A'], 'B') == (True, False)


def test_shuffled_options():
  task = make_task(
    group_size=8,
    answer_kind='choice',
    options=('a scratch', 'a dent', 'rust'),
    shuffle_options=True,
    solver_prompt='A {text_A}, B {text_B}, C {text_C}.\n'
    'It squeaks: {letter_C}\n{question}: ',
    solver_variants=('{text_A}/{text_B}/{text_C}? {question}',),
  )
  # Two orders for each template, because 3 do not divide its 4 answers.
  assert task.solver_prompts('{text_A}') == (
    'A a scratch, B a dent, C rust.\nIt squeaks: C\n{text_A}: ',
    'A a dent, B rust, C a scratch.\nIt squeaks: B\n{text_A}: ',
    'a scratch/a dent/rust? {text_A}',
    'a dent/rust/a scratch? {text_A}',
  )
  responses = ['B', 'B', 'b) a dent', 'b) rust', 'rust', 'rust', 'D', 'D']
  prompts = [0, 1, 0, 1, 2, 3, 0, 1]
  letters = task.read_shuffled(responses, prompts)
  assert letters == ('B', 'C', 'B', 'C', 'C', 'C', None, None)
  # Evaluations see the first prompt and therefore the order of the config.
  assert task.read_answers(['B', 'rust']) == ('B', 'C')
  assert make_task(answer_kind='choice').read_shuffled is None


@pytest.mark.parametrize(
  'group_size, size, expected',
  [
    (4, 4, [(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)]),
    (8, 2, [(0, 1), (1, 0)]),
    (
      8,
      5,
      [(0, 1, 2, 3, 4), (1, 2, 3, 4, 0), (2, 3, 4, 0, 1), (3, 4, 0, 1, 2)],
    ),
    (4, 3, [(0, 1, 2), (1, 2, 0)]),
    (7, 3, [(0, 1, 2)]),
  ],
)
def test_orders_of_options(group_size, size, expected):
  task = task_schema.Task(
    options=tuple('abcdefgh'[:size]), shuffle_options=True
  )
  assert list(task.option_orders(group_size)) == expected


def test_expressions():
  task = make_task(
    answer_kind='expression',
    answer_pattern=r'<answer>(.*?)</answer>',
  )

  def wrap(text):
    return f'so <answer>{text}</answer>'

  texts = ['1/2', '0.5', r'\frac{1}{2}', 'x = 1/2', '2', 'nothing']
  first, *rest = task.read_answers([wrap(text) for text in texts] + ['1/2'])
  assert rest[:3] == [first] * 3
  assert rest[3] != first
  assert rest[4:] == [None, None]
  graded = grade(task, [wrap('sqrt(8)'), wrap('2.83')], '2*sqrt(2)')
  assert graded == (True, False)


def test_prompts_are_filled_once_and_wrapped():
  task = make_task(wrap=lambda prompt: f'<user>{prompt}</user>')
  assert task.proposer_prompt('a') == '<user>Ask about a: </user>'
  # Placeholders in a question are not filled.
  assert task.solver_prompts('{question}') == ('<user>{question} = </user>',)


@hypothesis.given(st.text())
def test_any_text_can_be_read(text):
  task = make_task()
  problem = task.read_question(text)
  assert problem.ok == (not problem.reason)
  assert isinstance(task.read_answers([text])[0], fractions.Fraction | None)
  if problem.ok:
    assert task.true_answer(problem.text) is not None


def test_user_checkers_run_in_another_process(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(tmp_path))
  (tmp_path / 'my_rules.py').write_text(
    'import os\n'
    'def answer(question): return f"{len(question)}" if question else None\n'
    'def process(question): return str(os.getpid())\n'
    'def number(question): return 7\n'
  )
  task = make_task(checker='my_rules:answer')
  assert task.true_answer('3 + 4') == 5
  assert task.true_answer('') is None
  assert make_task(checker='my_rules:process').true_answer('') != os.getpid()
  task = make_task(checker='my_rules:number')
  with pytest.raises(
    ValueError, match=r"checker='my_rules:number'.*'3 \+ 4', but it returned 7"
  ):
    task.true_answer('3 + 4')


@pytest.mark.parametrize(
  'checker', ['arithmetics', 'a:b:c', 'my rules:f', ':f']
)
def test_invalid_checker_names_are_refused(checker):
  with pytest.raises(ValueError, match='one of none, arithmetic, or module'):
    make_task(checker=checker)


def test_a_pattern_that_takes_too_long_refuses_the_text(monkeypatch):
  monkeypatch.setattr(extraction, 'TIME_LIMIT', 0.05)
  task = make_task(question_pattern='(a|aa)+$', answer_pattern='(a|aa)+$')
  text = 'a' * 60 + 'b'
  assert task.read_question(text) == types.Problem(
    text, ok=False, reason='timeout'
  )
  assert task.read_answers([text, 'x']) == (None, None)
