"""A real browser reviews a run while it trains.

Set SQLM_JAX_SCREENSHOTS to a directory to look at the pages afterwards.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from playwright import sync_api

from sqlm_jax.game import verdicts
from sqlm_jax.workdir import reviews, run_reader

ROOT = pathlib.Path(__file__).parent.parent.parent
CHROMIUM = shutil.which('chromium')
QUESTIONS = ('1+', '2+', '3+', '4+', '5+', '6+', '7+', '8+')
PATIENCE = 120  # seconds

pytestmark = pytest.mark.skipif(not CHROMIUM, reason='chromium is missing')


@contextlib.contextmanager
def started(*flags):
  """Runs the program until the context is left."""
  process = subprocess.Popen(
    [sys.executable, '-m', 'sqlm_jax.main', *flags],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  try:
    yield process
  finally:
    if process.poll() is None:
      process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)


def wait_for(condition):
  end = time.monotonic() + PATIENCE
  while not (value := condition()):
    assert time.monotonic() < end, 'waited in vain'
    time.sleep(0.1)
  return value


@pytest.fixture(scope='module')
def training(tmp_path_factory):
  """A run that trains as long as the tests need it."""
  directory = tmp_path_factory.mktemp('live')
  (directory / 'questions.txt').write_text('\n'.join(QUESTIONS))
  workdir = directory / 'run'
  with started(
    '--config=configs/smoke.py',
    f'--workdir={workdir}',
    '--config.num_steps=100000',
    f'--config.task.questions={directory}/questions.txt',
    '--config.random_model.num_layers=1',
    '--config.review.random_share=0.0',
    '--config.evaluation.every=0',
  ) as process:
    wait_for(lambda: process.poll() is not None or run_reader.steps(workdir))
    assert process.poll() is None, process.communicate()
    yield workdir


@pytest.fixture(scope='module')
def address(training):
  with started(
    '--mode=review', f'--workdir={training}', '--reviewer=ann'
  ) as process:
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.search(r'http://127\.0\.0\.1:\d+/\S+/', line)
    assert match, line
    yield match[0]


@pytest.fixture(scope='module')
def browser():
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=CHROMIUM,
      args=[
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    )
    yield browser
    browser.close()


@pytest.fixture
def page(browser, address):
  """A page whose errors, also those of the policy, fail the test."""
  context = browser.new_context()
  page = context.new_page()
  errors = []
  page.on('pageerror', lambda error: errors.append(error))
  page.on(
    'console',
    lambda message: (
      errors.append(message.text)
      if message.type in ('error', 'warning')
      else None
    ),
  )
  page.goto(address)
  yield page
  assert errors == []
  context.close()


def shown_question(page):
  return page.locator('h2.question').inner_text()


def rows_after(workdir, step):
  """Returns the solver's rows of the first step after `step`."""
  step = wait_for(lambda: [s for s in run_reader.steps(workdir) if s > step])[0]
  rows = run_reader.rollouts(workdir, [step]).to_pylist()
  return [row for row in rows if row['role'] == 'solver']


def test_a_person_reviews_a_run_that_trains(page, training):
  page.get_by_role('link', name='Rollouts').click()
  page.get_by_label('Contains').fill('3+')
  page.get_by_role('button', name='Show', exact=True).click()
  assert page.locator('main table tbody tr').count() == 1
  page.locator('main table tbody a').first.click()
  page.locator('summary').first.click()
  assert 'Here is a question: 3+' in page.locator('pre').first.inner_text()

  page.get_by_role('link', name='Decide').click()
  corrected = []
  for answer in ('7', '8', '9'):  # by keyboard alone
    corrected.append(shown_question(page))
    page.keyboard.press('c')
    page.keyboard.type(answer)
    with page.expect_navigation():
      page.keyboard.press('Enter')
  excluded = shown_question(page)
  with page.expect_navigation():
    page.keyboard.press('x')
  mistaken = shown_question(page)
  with page.expect_navigation():
    page.keyboard.press('x')
  with page.expect_navigation():
    page.keyboard.press('u')
  assert len({*corrected, excluded, mistaken}) == 5

  events = reviews.read(training)
  kinds = [event['verdict'] for event in events]
  assert kinds == ['correct'] * 3 + ['exclude'] * 2 + ['undo']
  assert {event['reviewer'] for event in events} == {'ann'}
  counts = wait_for(
    lambda: [c for c in reviews.read_counts(training) if c[1] == len(events)]
  )
  rows = rows_after(training, counts[0][0] - 1)
  assert {row['question'] for row in rows} == {*QUESTIONS} - {excluded}
  for row in rows:
    true = dict(zip(corrected, '789', strict=True)).get(row['question'])
    assert row['true_answer'] == true
    if true:
      assert row['reward'] == float(row['answer'] == true)
  known = verdicts.fold(events)
  assert known.refusal(excluded) == 'excluded'
  assert known.refusal(mistaken) == ''


def test_pages_need_no_script(browser, address, training):
  context = browser.new_context(java_script_enabled=False)
  page = context.new_page()
  page.goto(f'{address}queue')
  before = len(reviews.read(training))
  page.get_by_role('button', name='Skip').click()
  assert len(reviews.read(training)) == before + 1
  page.get_by_role('button', name='Undo').click()
  assert verdicts.live(reviews.read(training)) == verdicts.live(
    reviews.read(training)[:before]
  )
  context.close()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [1280, 390])
def test_pages_fit_the_screen(browser, address, scheme, width, tmp_path):
  """No page is wider than a phone, and dark means dark."""
  screenshots = pathlib.Path(os.environ.get('SQLM_JAX_SCREENSHOTS', tmp_path))
  screenshots.mkdir(parents=True, exist_ok=True)
  context = browser.new_context(
    color_scheme=scheme, viewport={'width': width, 'height': 844}
  )
  page = context.new_page()
  for name in ('', 'step', 'question?step=1&index=0', 'compare', 'queue'):
    page.goto(address + name)
    place = name.partition('?')[0] or 'overview'
    path = screenshots / f'{place}-{scheme}-{width}.png'
    page.screenshot(path=path, full_page=True)
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    background = page.evaluate(
      'getComputedStyle(document.body).backgroundColor'
    )
    red = int(re.search(r'\d+', background)[0])
    assert (red > 128) == (scheme == 'light')
  context.close()
