"""User-defined functions that work, fail or hang."""

import pytest

from sqlm_jax.grading import user_functions

MODULE = """
import os, sys, time

def good(text): return text.upper()
def unknown(text): return None
def prints(text):
  print('noise'); os.write(1, b'noise'); sys.stderr.write('noise')
  return 'quiet'
def writes(text):
  with open(os.devnull + '', 'w') as file: file.write('x')
  with open('FOLDER/written', 'w') as file: file.write('x' * 10**5)
  return 'written'
def optional(text, more='!'): return text + more
def raises(text): return {}[text]
def inner(text): return raises(text)
def number(text): return 7
def truth(text): return True
def data(text): return b'7'
def items(text): return ['7']
def nothing_like_it(text): return Odd()
def leaves(text): sys.exit('bye')
def ends(text): os._exit(3)
def interrupts(text): raise KeyboardInterrupt
def reads(text): return input()
def recurses(text): return recurses(text)
def hangs(text):
  while True: time.sleep(1)
async def later(text): return '7'
def two(text, other): return '7'
def many(question, answers): return len(answers)
def truth_of(question, answers): return answers[0] is None
def nan(question, answers): return float('nan')
def texts(text): return [text, text + '!']
def rates(question, response, answer): return len(response) + (answer == '3')
def rates_in_words(question, response, answer): return 'good'
def none(): return '7'
def named(text, *, other): return '7'
value = 5

class Odd:
  def __repr__(self): raise ValueError
class Callable:
  def __call__(self, text): return 'called'
instance = Callable()
"""


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(tmp_path))
  source = MODULE.replace('FOLDER', str(tmp_path))
  (tmp_path / 'of_a_user.py').write_text(source)
  for name, text in (
    ('leaves', 'raise SystemExit(2)'),
    ('ends', 'import os; os._exit(2)'),
    ('broken', 'x = '),
    ('needs', 'import no_such_module'),
  ):
    (tmp_path / f'module_that_{name}.py').write_text(text)


@pytest.mark.parametrize(
  'name, value',
  [
    ('good', '7 × 6'.upper()),
    ('unknown', None),
    ('prints', 'quiet'),
    ('writes', 'written'),
    ('optional', '7 × 6!'),
    ('instance', 'called'),
  ],
)
def test_functions_that_return_a_text_or_none(name, value, capfd):
  function = user_functions.Function('task.checker', f'of_a_user:{name}')
  assert [function('7 × 6') for _ in range(3)] == [value] * 3
  assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize(
  'name, problem',
  [
    ('raises', "it raised KeyError: '7 - 4' (of_a_user.py:14)"),
    ('inner', "it raised KeyError: '7 - 4' (of_a_user.py:14)"),
    ('number', 'it returned 7 (int)'),
    ('truth', 'it returned True (bool)'),
    ('data', "it returned b'7' (bytes)"),
    ('items', "it returned ['7'] (list)"),
    ('nothing_like_it', "it returned an object of <class 'of_a_user.Odd'>"),
    ('later', 'it returned <coroutine object later'),
    ('leaves', 'it raised SystemExit: bye'),
    ('interrupts', 'it raised KeyboardInterrupt'),
    ('reads', 'it raised EOFError'),
    ('recurses', 'it raised RecursionError'),
    ('ends', 'it ended its process'),
    ('hangs', 'it did not return within'),
  ],
)
def test_errors_name_the_function_the_question_and_the_problem(
  name, problem, monkeypatch
):
  monkeypatch.setattr(user_functions, 'TIME_LIMIT', 1.0)
  function = user_functions.Function('task.checker', f'of_a_user:{name}')
  with pytest.raises(ValueError, match='expected a text or None') as raised:
    function('7 - 4')
  message = str(raised.value)
  assert f"task.checker='of_a_user:{name}'" in message
  assert "question '7 - 4'" in message
  assert problem in message


def test_long_questions_are_shortened_in_errors():
  function = user_functions.Function('task.checker', 'of_a_user:number')
  with pytest.raises(ValueError, match='expected') as raised:
    function('x' * 10**4)
  assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
  'name, problem',
  [
    ('of_a_user:two', "other arguments: missing a required argument: 'other'"),
    ('of_a_user:none', 'other arguments: too many positional arguments'),
    (
      'of_a_user:named',
      "other arguments: missing a required argument: 'other'",
    ),
    ('of_a_user:value', 'it is 5 (int)'),
    ('of_a_user:missing', "has no attribute 'missing'"),
    ('no_such_module:f', "No module named 'no_such_module'"),
    ('module_that_leaves:f', 'SystemExit: 2 (module_that_leaves.py:1)'),
    ('module_that_ends:f', 'importing its module ended the process'),
    ('module_that_broken:f', 'SyntaxError'),
    ('module_that_needs:f', "'no_such_module' (module_that_needs.py:1)"),
  ],
)
def test_invalid_functions_are_refused_at_creation(name, problem):
  with pytest.raises(
    ValueError, match=r'expected a function of \(question\)'
  ) as raised:
    user_functions.Function('task.checker', name)
  assert f'task.checker={name!r}' in str(raised.value)
  assert problem in str(raised.value)


@pytest.mark.parametrize(
  'key, name, arguments, value',
  [
    ('gate.functions', 'unknown', ('7 - 4',), None),
    ('gate.functions', 'good', ('odd',), 'ODD'),
    ('task.equivalent_forms', 'texts', ('7 - 4',), ['7 - 4', '7 - 4!']),
    ('solver.reward_functions', 'rates', ('7 - 4', '= 3', '3'), 4.0),
    ('solver.reward_functions', 'rates', ('7 - 4', '', None), 0.0),
    ('proposer.reward_functions', 'many', ('7 - 4', ['3', None]), 2.0),
    ('proposer.reward_functions', 'truth_of', ('7 - 4', [None]), 1.0),
  ],
)
def test_functions_of_other_kinds(key, name, arguments, value):
  result = user_functions.Function(key, f'of_a_user:{name}')(*arguments)
  assert (type(result), result) == (type(value), value)


@pytest.mark.parametrize(
  'key, name, arguments, message',
  [
    *(
      (
        key,
        'good',
        (reason,),
        f"a reason of one word, or None for the {noun} '{reason}', but it "
        f"returned '{reason.upper()}'",
      )
      for key, noun in (
        ('gate.functions', 'question'),
        ('exclude.functions', 'response'),
      )
      for reason in ('', 'two words', 'a/b', 'x' * 41)
    ),
    (
      'solver.reward_functions',
      'rates_in_words',
      ('7 - 4', '= 3', '3'),
      "a finite number for the question '7 - 4' and the response '= 3' and "
      "the answer '3', but it returned 'good'",
    ),
    (
      'proposer.reward_functions',
      'nan',
      ('7 - 4', ['3', None]),
      "a finite number for the question '7 - 4' and the answers ['3', None] "
      '(list), but it returned nan (float)',
    ),
    (
      'task.equivalent_forms',
      'good',
      ('7 - 4',),
      "a list of texts for the question '7 - 4', but it returned '7 - 4'",
    ),
  ],
)
def test_errors_name_all_arguments(key, name, arguments, message):
  function = user_functions.Function(key, f'of_a_user:{name}')
  with pytest.raises(ValueError, match='expected') as raised:
    function(*arguments)
  assert f"{key}='of_a_user:{name}': expected {message}" == str(raised.value)
