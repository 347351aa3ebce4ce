"""Prompts that end in a space."""

import pytest

from configs import quickstart
from sqlm_jax.config import schema as config_lib
from sqlm_jax.run import build as build_lib
from sqlm_jax.tasks import prompt_ends

REPORTS = 'Report: Burrs along a cut.\nReport: '


def words(text):
  """Joins a space with the word after it, as most tokenizers do; not digits."""
  tokens, start = [], 0
  for i in range(1, len(text) + 1):
    joins = text[i - 1] == ' ' and text[i : i + 1].isalpha()
    goes_on = text[i - 1].isalpha() and text[i : i + 1].isalpha()
    if not joins and not goes_on:
      tokens.append(text[start:i])
      start = i
  return tokens


@pytest.mark.parametrize(
  'template, expected',
  [
    (REPORTS, True),
    (REPORTS.strip(), False),
    (REPORTS.strip() + '\n', False),
    (REPORTS.strip() + '\t', True),
    ('報告：刃が欠けた。\n報告：\u3000', True),
    # What the examples show: no word, and the space a token of its own.
    ('Question: 7 - 4\nQuestion: ', False),
    ('3 + 4 = 7\n{question} = ', False),
    ('Cause: A\n{question}\nCause: ', True),
    ('Question: 7 - 4\nQuestion: How many?\nQuestion: ', True),
    # Nothing shows what comes next.
    ('Write about {topic}: ', True),
    ('{question} ', True),
    (' ', True),
    ('', False),
  ],
)
def test_a_space_at_the_end(template, expected):
  assert prompt_ends.is_harmful(template, words) == expected


def test_a_space_that_is_joined_with_digits():
  joined = lambda text: text.replace(' 7', '_').split('\n')
  assert prompt_ends.is_harmful('Q: 7\nQ: ', joined)


def build(**changes):
  c = quickstart.get_config()
  c.model.path = 'random'
  c.mesh.data = 1
  c.update_from_flattened_dict(changes)
  build_lib.build(config_lib.from_dict(c.to_dict()))


def test_a_run_warns_by_key_before_it_starts(caplog):
  build(
    **{
      'task.proposer_prompt': 'About {topic}.\n' + REPORTS,
      'task.solver_variants': ('{question}\nCause: ',),
    }
  )
  first, second = caplog.messages
  assert first.startswith("task.proposer_prompt=…'")
  assert "Report: ': ends in a space." in first
  assert second.startswith("task.solver_variants='{question}")


@pytest.mark.parametrize(
  'changes',
  [
    {},  # the quickstart's prompts end in a space before a digit
    {'task.proposer_prompt': REPORTS.strip()},
    {'task.proposer_prompt': REPORTS, 'task.style': 'chat'},
  ],
)
def test_other_prompts_are_not_told(changes, caplog):
  build(**changes)
  assert caplog.messages == []


def test_a_prompt_that_nobody_uses(caplog, tmp_path):
  path = tmp_path / 'questions.txt'
  path.write_text('1 + 1\n', encoding='utf-8')
  build(**{'task.proposer_prompt': REPORTS, 'task.questions': str(path)})
  assert caplog.messages == []
