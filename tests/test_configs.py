"""Tests of the prompts, patterns and settings of configs/."""

import ast
import collections
import importlib
import pathlib
import re

import pytest

from configs import algebra, coding, controls, orders
from sqlm_jax.config import schema as config_lib
from sqlm_jax.datasets import files
from sqlm_jax.datasets import orders as dataset
from sqlm_jax.game import types
from sqlm_jax.tasks import base, prompted
from sqlm_jax.tasks import coding as coding_task

ROOT = pathlib.Path(__file__).parent.parent
TASKS = (
  'algebra',
  'algebra_smollm2',
  'coding',
  'coding_smollm2',
  'multiplication',
  'multiplication_smollm2',
)
SMALL = [name for name in TASKS if name.endswith('_smollm2')]
THINK = '<think>\nFirst this, then that.\n</think>\n'


def load(name: str) -> config_lib.Config:
  module = importlib.import_module(f'configs.{name}')
  return config_lib.from_dict(module.get_config().to_dict())


def make_task(name: str) -> base.Task:
  """Returns the task of a config, without running anything."""
  c = load(name)
  task = prompted.make_task(c.task, num_topics=1)
  if c.task.answer_kind != 'code':
    return task
  return coding_task.with_programs(task, c.tests, lambda: None)


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*.py')))
def test_a_config_says_how_to_run_it(path):
  docstring = ast.get_docstring(ast.parse(path.read_text()))
  if path.stem != 'default':
    assert f'--config=configs/{path.name}' in docstring
    assert '--workdir=' in docstring


@pytest.mark.parametrize('name', SMALL)
def test_no_question_of_an_evaluation_is_asked_twice(name):
  task = load(name).task
  questions = [question for question, _ in task.test + task.validation]
  assert len(questions) == len(set(questions)) >= 50


@pytest.mark.parametrize('name', SMALL)
def test_an_evaluation_shows_nothing_of_the_prompts(name):
  task = load(name).task
  for question, _ in task.test + task.validation:
    assert question not in task.solver_prompt.split('\n')
    assert not re.search(
      rf'(?m)^{re.escape(question)}[ ,=]', task.solver_prompt
    )


@pytest.mark.parametrize(
  'name', ['algebra_smollm2', 'coding_smollm2', 'multiplication_smollm2']
)
def test_worked_examples_have_the_format_that_they_show(name):
  """Small models copy worked examples, also their errors."""
  task, c = make_task(name), load(name)
  asked = re.split('Question: |Problem: |Task: ?', c.task.proposer_prompt)[1:-1]
  assert len(asked) >= 3
  for text in asked:
    assert task.read_question(text.strip('\n') + '\n').ok, text


@pytest.mark.parametrize(
  'name', ['quickstart_multiplication', 'multiplication_smollm2']
)
def test_products(name):
  task = load(name).task
  for question, true in task.test + task.validation:
    a, b = map(int, re.findall(r'\d+', question))
    assert a * b == int(true)


ORDERS_SHOWN = [
  line.removeprefix('Order: ')
  for line in (
    *orders.PROPOSER_PROMPT.splitlines(),
    *orders.SOLVER_PROMPT.splitlines(),
  )
  if line.startswith('Order: ') and '{' not in line
]


def test_orders_of_the_prompts_are_readable_and_right():
  task, solver = make_task('orders'), orders.SOLVER_PROMPT.splitlines()
  for order in ORDERS_SHOWN:
    problem = task.read_question(f' {order}\n')
    assert (problem.ok, problem.text) == (True, order)
    if f'Order: {order}' in solver:
      quantity = solver[solver.index(f'Order: {order}') + 1]
      assert quantity == f'Quantity: {dataset.quantity(order)}'


@pytest.mark.parametrize('split', ['test', 'validation'])
def test_evaluated_orders_have_forms_that_no_prompt_shows(split):
  config = load('orders')
  assert getattr(config.evaluation, split) == f'orders/{split}'
  assert config.evaluation.contaminated == 'exclude'
  assert len(ORDERS_SHOWN) >= 7
  assert not any(dataset.has_form(order, split) for order in ORDERS_SHOWN)
  task = make_task('orders')
  for question, answer in dataset.orders(split):
    assert task.read_question(f'{question}\n').text == question
    assert str(task.true_answer(question)) == answer


@pytest.mark.parametrize(
  'order',
  [
    'We need boxes by Friday.',  # no quantity
    'We need 24 boxes by Friday.',
    'we need two boxes by Friday.',
    'We need two boxes by Friday',
    'We need two.',
    'We often need boxes by Friday.',
  ],
)
def test_orders_that_are_not_readable(order):
  assert not make_task('orders').read_question(f'{order}\n').ok


def test_defect_reports():
  """The labeled reports are balanced, so that a constant answer is chance."""
  config, task = load('defects'), make_task('defects')
  rows = files.read_examples(ROOT / 'examples' / 'defect_reports.jsonl')
  assert collections.Counter(row.answer for row in rows) == dict.fromkeys(
    'ABCDE', 10
  )
  for row in rows:
    assert task.read_question(f'{row.question}\n').ok
    assert row.question not in config.task.solver_prompt


def test_the_defects_of_the_docs_are_the_config():
  text = (ROOT / 'docs' / 'add_a_topic.md').read_text()
  assert f'```python\n{(ROOT / "configs/defects.py").read_text()}```' in text


def test_word_problems():
  task = load('algebra_smollm2').task
  for problem, true in task.test + task.validation:
    first, then = map(int, re.findall(r'\d+', problem))
    assert then - first == int(true)


def test_tests_of_the_small_coding_task():
  c = load('coding_smollm2')
  for question, tests in c.task.test + c.task.validation:
    assert make_task('coding_smollm2').read_question(f'{question}\n{tests}').ok


@pytest.mark.parametrize(
  'response, question',
  [
    ('What is 417 * 86?', 'What is 417 * 86?'),
    ('  Compute 903 - 58\n', 'Compute 903 - 58'),
    ('12 * 37 =', '12 * 37 ='),
    ('12 * 37 = ?', '12 * 37 = ?'),
    ('12 * 37 = 444', None),
    ('What is seven times nine?', None),
    ('Sure! Here is one:\n\n417 * 86', None),
    ('', None),
  ],
)
def test_questions_of_the_papers_arithmetic(response, question):
  problem = make_task('multiplication').read_question(response)
  assert (problem.text if problem.ok else None) == question


@pytest.mark.parametrize(
  'response, question',
  [
    (f'1. Ann...\n2. Bob...\n3. Eve?\n\n{algebra.MARKER} Eve?', 'Eve?'),
    # The text after the last marker.
    (f'{algebra.MARKER} Ann?\n{algebra.MARKER}\nBob?\nHow?', 'Bob?\nHow?'),
    ('1. Ann?', None),
    (algebra.MARKER, None),
    (f'Ann? {algebra.MARKER}  \n', None),
    ('', None),
  ],
)
def test_the_problem_that_was_selected(response, question):
  problem = make_task('algebra').read_question(response)
  assert (problem.text if problem.ok else None) == question


def test_answers_of_the_papers_algebra_are_compared_as_mathematics():
  task = make_task('algebra')
  tag = f'{THINK}<answer>{{}}</answer>'.format
  forms = ['0.5', '1/2', r'\frac{1}{2}', 'x = 1/2', '50%', 'two', '']
  read = task.read_answers([*map(tag, forms), '1/2'])
  assert len(set(read[:5])) == 1
  assert read[0] is not None
  assert read[6] is read[7] is None
  answers = [tag('-4'), tag('x = 4'), tag('4')]
  ((*wrong, named, right),) = task.grade([answers], [types.Example('?', '4')])
  assert not wrong[0].right
  assert named.right
  assert right.right


def test_a_response_of_the_papers_coding():
  shown = coding.PROPOSER_PROMPT.split('another exercise:\n\n')[1]
  problem = make_task('coding').read_question(shown)
  assert problem.ok
  assert len(problem.tests) == 5
  assert '=>' not in problem.text
  response = 'Plan.\n```python\nx = 1\n```\nBetter:\n```python\nprint(2)\n```\n'
  assert make_task('coding').read_answers([response]) == ('print(2)',)


@pytest.mark.parametrize('control', controls.CONTROLS)
@pytest.mark.parametrize('base', ['quickstart', 'smoke'])
def test_controls(base, control):
  c = controls.get_config(f'{base},{control}')
  if base == 'smoke' and control == 'true':
    # The task has no checker.
    with pytest.raises(ValueError, match=r'solver\.rewards\.true=1\.0'):
      config_lib.from_dict(c.to_dict())
    return
  config = config_lib.from_dict(c.to_dict())
  plain = load(base)
  same = (base, control) == ('quickstart', 'every_5')  # the paper's interval
  assert (config == plain) == same
  assert config.task.test == plain.task.test


@pytest.mark.parametrize('name', ['quickstart', 'quickstart,nothing', ''])
def test_a_control_that_there_is_not(name):
  with pytest.raises(ValueError, match='expected CONFIG,CONTROL with CONTROL'):
    controls.get_config(name)
