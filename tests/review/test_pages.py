"""Tests of what the review pages show."""

import html
import json
import re

import pytest
from pyarrow import parquet
from starlette import testclient

from sqlm_jax.game import verdicts
from sqlm_jax.review import server
from sqlm_jax.workdir import reviews, rollouts
from tests.review import runs

TOKEN = 'token'
PAGES = (
  '',
  'step',
  'step?role=proposer',
  'step?role=solver',
  'step?role=voter',
  'question?step=2&index=2',
  'question?step=2&index=6&full=1',
  'compare?left=0&right=2',
  'search?text=SCRIPT',
  'queue',
  'queue?order=leverage',
  'queue?order=views',
)


def open_client(run):
  app = server.make_app(run, token=TOKEN)
  base_url = f'http://127.0.0.1/{TOKEN}/'
  return testclient.TestClient(
    app, base_url=base_url, headers={'Sec-Fetch-Site': 'same-origin'}
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return runs.write_run(tmp_path_factory.mktemp('run'))


@pytest.fixture(scope='module')
def client(run):
  return open_client(run)


@pytest.mark.parametrize('page', PAGES)
def test_everything_that_a_model_wrote_is_escaped(client, page):
  text = client.get(page).raise_for_status().text
  assert runs.SCRIPT not in text
  assert re.findall('<script[^>]*>', text) == ['<script src="keys.js" defer>']
  assert not re.search(r'<[^>]*\son\w+=', text)  # such as onclick=
  for address in re.findall('(?:href|src|action)="([^"]*)"', text):
    assert not re.match('/|[a-z]+:', address), address  # relative


def test_model_text_is_isolated_from_the_page(client):
  text = client.get('step').text
  for question in (runs.RIGHT_TO_LEFT, runs.JAPANESE):
    shown = html.escape(question, quote=False)
    assert f'<bdi class="text" dir="auto">{shown}</bdi>' in text


def test_a_long_line_is_clipped_unless_it_is_wanted(client):
  assert len(client.get('step').text) < 10**5
  clipped = client.get('question?step=2&index=6').text
  assert len(clipped) < 10**5
  assert runs.LONG in client.get('question?step=2&index=6&full=1').text


def test_half_a_surrogate_pair_is_shown(tmp_path):
  run = runs.write_run(tmp_path)
  reviews.append(run, [event('accept', reviewer=runs.HALF_A_PAIR)])
  page = open_client(run).get('question?step=2&index=0')
  assert 'half ? a pair' in page.raise_for_status().text


def test_the_overview_shows_curves_and_alarms(tmp_path):
  run = runs.write_run(tmp_path)
  alarm = {
    'event': 'raised',
    'signal': 'solver/answer_share_max',
    'value': 0.97,
    'sign': '>',
    'threshold': 0.9,
    'detail': runs.SCRIPT,
  }
  rows = [
    alarm | {'name': 'first', 'step': 1, 'since': 0},
    alarm | {'name': 'second', 'step': 2, 'since': 1},
    alarm | {'name': 'second', 'step': 4, 'since': 1, 'event': 'ended'},
    alarm | {'name': 'third', 'step': 5, 'since': 5},
  ]
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (run / 'alarms.jsonl').write_text(lines + '{"step": ')
  text = open_client(run).get('').text
  assert '<polyline' in text
  names = re.findall('data-name="Alarm">\\s*<bdi[^>]*>([a-z]+)', text)
  assert names == ['third', 'first', 'second']
  assert 'ended at step 4' in text
  assert runs.SCRIPT not in text
  assert 'Step 3 of 4' in text
  assert 'test: greedy' in text


def test_the_overview_shows_what_has_changed(tmp_path):
  run = runs.write_run(tmp_path)
  client = open_client(run)
  assert 'first visit' in client.get('').text
  assert 'No step since' in client.get('').text
  text = client.get('?since=1').text
  assert 'Steps since step 1: 2' in text
  row = '<td>vote/agreement</td><td class="number">0.5</td>'
  assert f'{row}<td class="number">0.7</td>' in text


def questions_of(text):
  return [
    int(index) for index in re.findall(r'question\?step=2&amp;index=(\d)', text)
  ]


@pytest.mark.parametrize(
  'query, expected',
  [
    ('', [0, 1, 2, 3, 4, 5, 6]),
    ('step=2', [0, 1, 2, 3, 4, 5, 6]),
    ('step=99', [0, 1, 2, 3, 4, 5, 6]),
    ('reason=tie', [1]),
    ('reason=none', [0, 2, 3, 4, 5, 6]),
    ('low=60&high=90', [2, 3, 4, 5, 6]),
    ('high=60', [1]),
    ('text=2 %2B', [1, 5]),
    ('text=SCRIPT', [2]),
    ('text=りんご', [4]),
    ('reviewed=yes', []),
    ('sort=agreement', [1, 2, 3, 4, 5, 6, 0]),
    ('sort=-agreement', [0, 2, 3, 4, 5, 6, 1]),
    ('low=x&high=&sort=x&page=-1&step=1e9', [0, 1, 2, 3, 4, 5, 6]),
    ('page=1', []),
  ],
)
def test_questions_are_filtered_and_sorted(client, query, expected):
  assert questions_of(client.get(f'step?{query}').text) == expected


def test_responses_are_filtered(client):
  assert 'Entries: 8' in client.get('step?role=proposer').text
  assert 'Entries: 1<' in client.get('step?role=proposer&reason=format').text
  assert 'Entries: 28' in client.get('step?role=solver').text


def test_a_question_shows_answers_likelihoods_and_prompts(client):
  text = client.get('question?step=2&index=5').text
  assert 'Prompt of step 2' in text
  assert 'I say 5' in text
  assert '0.779' in text  # exp(-0.5 / 2)
  assert client.get('question?step=2&index=50').status_code == 404


def test_search_goes_through_the_steps(client):
  text = client.get('search?text=りんご').text
  assert 'Steps searched: 3' in text
  assert 'Entries: 15' in text  # one proposal and four answers in each step
  text = client.get('search?text=りんご&before=1').text
  assert 'Entries: 5' in text


def test_a_run_without_a_step_is_shown(tmp_path):
  run = runs.write_run(tmp_path, steps=0)
  client = open_client(run)
  assert 'Step 0 of 4' in client.get('').raise_for_status().text
  assert client.get('step').status_code == 404
  assert 'No vote is waiting' in client.get('queue').text


def event(verdict, *, question='1 + 1', **changes):
  return {
    'time': reviews.now(),
    'reviewer': 'ann',
    'step': 2,
    'id': verdicts.question_id(question),
    'question': question,
    'vote': '0',
    'verdict': verdict,
  } | changes


def form_of(text):
  """Returns the hidden fields of the form that decides."""
  form = text[text.index('action="verdict"') :]
  fields = re.findall('type="hidden" name="([a-z]+)" value="([^"]*)"', form)
  return dict(reversed(fields))


def test_a_person_decides_and_takes_it_back(tmp_path):
  run = runs.write_run(tmp_path, **{'review.random_share': 0.0})
  client = open_client(run)
  page = client.get('queue?reviewer=ann')
  # The tie comes first.
  assert '2 + 2' in page.text
  form = form_of(page.text) | {'reviewer': 'ann'}
  page = client.post(
    'verdict', data=form | {'verdict': 'correct', 'answer': ' 4 '}
  )
  assert page.status_code == 200
  assert form_of(page.text)['id'] != form['id']
  (stored,) = reviews.read(run)
  assert stored is not None
  assert stored['time'].endswith('Z')
  del stored['time']
  assert stored == {
    'reviewer': 'ann',
    'step': 2,
    'id': verdicts.question_id('2 + 2'),
    'question': '2 + 2',
    'vote': None,
    'verdict': 'correct',
    'answer': '4',
    'pick': 'uncertain',
  }
  page = client.post('undo', data={'reviewer': 'ann'})
  assert form_of(page.text)['id'] == form['id']
  assert verdicts.fold(reviews.read(run)).by_id == {}
  assert len(reviews.read(run)) == 2  # nothing is removed


def test_a_skipped_vote_is_shown_to_others_only(tmp_path):
  run = runs.write_run(tmp_path)
  client = open_client(run)
  form = form_of(client.get('queue?reviewer=ann').text)
  client.post('verdict', data=form | {'verdict': 'skip', 'reviewer': 'ann'})
  assert form_of(client.get('queue?reviewer=ann').text)['id'] != form['id']
  assert form_of(client.get('queue?reviewer=ben').text)['id'] == form['id']


def test_a_wrong_decision_is_explained(tmp_path):
  run = runs.write_run(tmp_path, **{'review.random_share': 0.0})
  client = open_client(run)
  form = form_of(client.get('queue').text)
  for change, message in (
    ({'verdict': 'correct', 'answer': ' '}, 'expected an answer'),
    ({'verdict': 'accept'}, 'expected a vote with a majority'),
    ({'verdict': 'perhaps'}, 'expected one of accept'),
  ):
    page = client.post('verdict', data=form | change)
    assert page.status_code == 400
    assert message in page.text
  page = client.post(
    'verdict', data=form | {'verdict': 'exclude', 'id': '0' * 16}
  )
  assert page.status_code == 409
  assert reviews.read(run) == []


def test_only_random_draws_tell_how_often_votes_are_right(tmp_path):
  run = runs.write_run(tmp_path)
  client = open_client(run)
  assert 'is not known yet' in client.get('queue').text
  reviews.append(
    run,
    [
      *(event('accept', question=f'{i} + 1', pick='random') for i in range(10)),
      event('reject', question='10 + 1', pick='random'),
      event('reject', question='11 + 1', pick='uncertain'),
      event('exclude', question='12 + 1', pick='random'),
    ],
  )
  # Wilson's interval of 10 of 11: statsmodels gives 0.6226 and 0.9838.
  assert '91% (95% interval 62% to 98%)' in client.get('queue').text


@pytest.mark.parametrize(
  'page', ['', 'step?step=9000', 'question?step=9000&index=5', 'queue']
)
def test_a_page_of_a_long_run_opens_few_files(long_run, page, monkeypatch):
  opened = []
  read = parquet.read_table
  monkeypatch.setattr(
    parquet,
    'read_table',
    lambda *args, **kw: opened.append(1) or read(*args, **kw),
  )
  open_client(long_run).get(page).raise_for_status()
  assert len(opened) <= 20


@pytest.fixture(scope='module')
def long_run(tmp_path_factory):
  """A run of 10,000 steps and 2.5 million rows; steps share their files."""
  run = tmp_path_factory.mktemp('long')
  runs.write_run(run, steps=1)
  rows = runs.rows_of(0, [f'{i} + {i}' for i in range(50)])
  assert len(rows) == 251
  rollouts.write(run, 0, rows)
  first = run / 'rollouts' / 'step_00000000.parquet'
  names = [f'group/metric_{i}' for i in range(58)]
  metrics = dict.fromkeys(names, 0.123456789) | {
    'vote/agreement': 0.5,
    'proposer/valid_rate': 0.9,
  }
  with (run / 'metrics.jsonl').open('a') as file:
    for step in range(1, 10_000):
      first.with_name(f'step_{step:08d}.parquet').hardlink_to(first)
      file.write(json.dumps({'step': step} | metrics) + '\n')
  return run
