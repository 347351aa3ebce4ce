"""Tests of the date of a run whose chat template inserts the date."""

import json

import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.modes import train
from sqlm_jax.pretrained import chat, tokenizer
from sqlm_jax.run import build, evaluation_sets, evaluator
from sqlm_jax.workdir import config_json, rollouts
from tests.pretrained import families

torch = pytest.importorskip('torch')

# transformers warns about settings of tiny models.
pytestmark = pytest.mark.filterwarnings('ignore')

DATED = "Today is {{ strftime_now('%d %b %Y') }}. {{ messages[0].content }}"


@pytest.fixture(scope='module')
def model_path(tmp_path_factory):
  directory = tmp_path_factory.mktemp('model')
  families.make('qwen2', directory, vocab_size=264, eos_token_id=256)
  tokenizer.byte_tokenizer().save(directory)
  (directory / 'chat_template.jinja').write_text(DATED)
  return directory


class Clock:
  """A substitute for the current date."""

  day = 1


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(chat, 'today', lambda: f'2031-05-{clock.day:02}')
  return clock


def make_config(model_path, **changes) -> config_lib.Config:
  c = smoke.get_config()
  c.model.path = str(model_path)
  c.num_steps = 1
  c.mesh.data = 1
  c.optimizer.max_update_kl = 1e3  # allows a rate that is too high
  c.task.style = 'chat'
  # Accepts every word, because a random model writes no readable answers.
  c.task.question_pattern = ''
  c.task.answer_kind = 'text'
  c.task.checker = 'none'
  c.update_from_flattened_dict(changes)
  return config_lib.from_dict(c.to_dict())


def prompt_of(parts: build.Parts) -> str:
  return parts.task.solver_prompts('1 + 1')[0]


def test_the_date_of_a_run_is_that_of_its_first_start(
  model_path, tmp_path, clock
):
  config = make_config(model_path)
  parts = build.build(config, tmp_path)
  assert prompt_of(parts).startswith('Today is 01 May 2031. ')
  assert parts.config.task.date == '2031-05-01'
  config_json.write(tmp_path, config_lib.to_dict(parts.config))
  clock.day = 2
  again = build.build(config, tmp_path)
  assert prompt_of(again) == prompt_of(parts)
  assert again.config == parts.config
  # Another run has another date.
  other = build.build(config, tmp_path / 'other')
  assert prompt_of(other).startswith('Today is 02 May 2031. ')


def test_a_run_and_its_evaluation_resume_on_another_day(
  model_path, tmp_path, clock
):
  train.train(make_config(model_path), str(tmp_path))
  stored = json.loads((tmp_path / 'config.json').read_text())
  assert stored['task']['date'] == '2031-05-01'
  clock.day = 2
  train.train(make_config(model_path, num_steps=2), str(tmp_path))
  stored = json.loads((tmp_path / 'config.json').read_text())
  assert stored['task']['date'] == '2031-05-01'
  files = rollouts.files(str(tmp_path), before=2)
  assert len(files) == 2
  # The evaluation before training is found and not repeated.
  parts = build.build(make_config(model_path, num_steps=2), tmp_path)
  questions = parts.sets(evaluation_sets.TEST)
  planned = evaluator.plan(parts, questions, step=0, workdir=tmp_path)
  assert planned.is_answered
  assert 'Today is 01 May 2031' in planned.files.settings['first_prompt']


def test_a_date_in_the_config_is_used(model_path, tmp_path, clock):
  del clock
  parts = build.build(make_config(model_path, **{'task.date': '1999-12-31'}))
  assert prompt_of(parts).startswith('Today is 31 Dec 1999. ')
  begun = build.build(make_config(model_path), tmp_path)
  config_json.write(tmp_path, config_lib.to_dict(begun.config))
  other = make_config(model_path, **{'task.date': '1999-12-31'})
  with pytest.raises(ValueError, match=r'task\.date: .*2031-05-01.*1999-12-31'):
    train.train(other, str(tmp_path))


@pytest.mark.parametrize('date', ['today', '2031-02-30', '1.5.2031'])
def test_an_invalid_date_is_rejected(model_path, date):
  expected = rf"task\.date='{date}': expected a date"
  with pytest.raises(ValueError, match=expected):
    make_config(model_path, **{'task.date': date})


@pytest.mark.parametrize('style', ['plain', 'chat'])
def test_a_date_that_no_prompt_contains_is_not_stored(
  tmp_path, model_path, style
):
  c = make_config('random', **{'task.style': style})
  assert build.build(c, tmp_path).config.task.date == ''
  c = make_config(model_path, **{'task.style': 'plain'})
  assert build.build(c, tmp_path).config.task.date == ''


def test_a_run_of_an_earlier_version_is_resumed(model_path, tmp_path):
  config = make_config(model_path)
  stored = config_lib.to_dict(config)
  del stored['task']['date']
  config_json.write(tmp_path, stored)
  parts = build.build(config, tmp_path)
  config_json.check(
    tmp_path, config_lib.to_dict(parts.config), complete=config_lib.complete
  )
