"""Tests of the HTML of a report."""

import html
import html.parser

import pytest

from sqlm_jax.reporting import messages, modes, page
from tests.reporting import reported_runs
from tests.review import runs

BETTER = {'before': '0' * 20, 'after': '1' * 10 + '0' * 10}


class Parsed(html.parser.HTMLParser):
  """Collects the tags, attributes and texts of a page."""

  def __init__(self, source: str):
    super().__init__()
    self.tags, self.links, self.texts = [], [], []
    self.feed(source)
    self.text = ' '.join(' '.join(self.texts).split())

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.links += [
      value for name, value in attrs if name in ('src', 'href', 'srcset')
    ]
    assert not any(name.startswith('on') for name, _ in attrs)

  def handle_data(self, data):
    self.texts.append(data)


def render(*workdirs, language='en', **options) -> str:
  read = [page.read_run(workdir, **options) for workdir in workdirs]
  return page.encode(page.render(read, language)).decode()


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'better'
  reported_runs.write_run(workdir, **BETTER)
  reported_runs.add_verdict(workdir, '1 + 1', 'accept')
  reported_runs.add_alarm(workdir, 'warn')
  return workdir


def test_the_first_screen(workdir):
  text = Parsed(render(workdir, price_per_hour=2.0)).text
  for expected in (
    'Go on The model has improved',
    'The warning one_answer has held since step 0.',
    '0.0% → 50.0%',
    '+50.0 points',
    'Right answers (mean@2) on 20 questions of the test set, after 0 and 2',
    '+10 learned, −0 lost',
    '0 stayed right, 10 stayed wrong.',
    '2 not needed',
    'Spent: 1 verdicts of people, 0 of the checker; 1 questions trained on',
    '20 labeled questions were used to measure.',
    '6 device hours',
    '12 at a price of 2 per device and hour.',
    'devices: 4 test chip',
    '1 hold',
    '100% of votes are right by 1 verdicts on random draws (21% to 100%).',
    # Of four votes, that on 1 + 1 is right in both steps.
    'The checker finds 50% of 4 votes in training right.',
  ):
    assert expected in text


def test_the_rest_of_the_report(workdir):
  text = Parsed(render(workdir)).text
  for expected in (
    'With --price_per_hour, the report states the cost.',
    'format 2',
    'excluded answers: mail 4',
    'code_version 0.1.0',
    'model_sha256 random',
    'Map of questions',
    'How often votes are right',
    '"num_steps": 2',
    'solver/answer_share_max 0.97',
    # The first wrong answer of the last model.
    '10 + 0 10 0 I say 0 wrong',
  ):
    assert expected in text


@pytest.mark.parametrize('language', messages.LANGUAGES)
def test_the_page_is_self_contained_and_has_no_script(workdir, language):
  source = render(workdir, workdir, language=language)
  parsed = Parsed(source)
  assert not {'script', 'link', 'iframe', 'object'} & set(parsed.tags)
  assert parsed.links
  assert all(
    link.startswith(('data:image/svg+xml;base64,', '#run-'))
    for link in parsed.links
  )
  assert "default-src 'none'" in source
  assert f'<html lang="{language}">' in source


@pytest.mark.parametrize('text', reported_runs.HOSTILE)
def test_generated_text_is_shown_as_text(tmp_path, text):
  # Parquet stores no half of a surrogate pair; JSON does.
  question = text.replace('\ud800', '?')
  workdir = reported_runs.write_run(
    tmp_path / 'run', before='00', questions=(question, '2 + 2')
  )
  reported_runs.evaluate(workdir, 2, '00', wrong=text)
  source = render(workdir)
  parsed = Parsed(source)
  assert 'script' not in parsed.tags
  assert not any(link == 'x' for link in parsed.links)
  assert '\x1b' not in source
  assert '\x00' not in source
  shown = text.replace('\ud800', '?').replace('\x00', ' ').replace('\x1b', ' ')
  assert ' '.join(f'I say {shown}'.split()) in parsed.text
  # A change of direction ends with the element.
  assert f'<bdi class="text" dir="auto">{html.escape(shown, quote=False)[:1]}'


def test_long_texts_are_cut(tmp_path):
  reported_runs.write_run(tmp_path, before='00')
  reported_runs.evaluate(tmp_path, 2, '00', wrong=runs.LONG)
  assert 'x' * 300 in (source := render(tmp_path))
  assert 'x' * 500 not in source


def test_a_report_in_japanese(workdir):
  text = Parsed(render(workdir, language='ja')).text
  assert '継続 モデルは、正解を一度も見ていない問題で改善しました。' in text
  assert '+10 新たに正解、−0 不正解に変化' in text
  assert 'テストセットの 20 問の正解率 (mean@2)' in text
  assert 'Did it improve?' not in text


def test_a_missing_evaluation_is_explained(tmp_path):
  workdir = reported_runs.write_run(tmp_path / 'run', before='01')
  text = Parsed(render(workdir)).text
  assert 'Not proven' in text
  assert 'The test set was not evaluated after training.' in text
  command = f'--mode=eval --workdir={workdir} --checkpoint=latest'
  assert command in text
  assert '--checkpoint=0' not in text


def test_a_run_that_has_just_started_has_a_report(tmp_path):
  workdir = reported_runs.write_run(tmp_path / 'run', steps=0)
  text = Parsed(render(workdir)).text
  assert 'No step is finished yet.' in text
  assert 'Not measured' in text


def test_several_runs_have_a_row_each(workdir, tmp_path):
  worse = reported_runs.write_run(
    tmp_path / 'worse', before='1' * 20, after='0' * 10 + '1' * 10
  )
  text = Parsed(render(workdir, worse)).text
  assert 'Report on 2 runs' in text
  assert 'better Go on 2 0.0% (0.0%–16.1%) 50.0%' in text
  assert 'worse Stop 2 100.0% (83.9%–100.0%) 50.0%' in text
  assert 'The model has become worse on the test set.' in text


def test_the_files_of_a_report(workdir, tmp_path, capsys):
  modes.report([workdir], directory=tmp_path / 'out')
  names = {path.name for path in (tmp_path / 'out').iterdir()}
  assert names == {'report.html', 'data_card.md', 'croissant.json'}
  assert 'go on: The model has improved' in capsys.readouterr().out
  modes.report([workdir, workdir], directory=tmp_path / 'ja', language='ja')
  assert (tmp_path / 'ja' / 'report.ja.html').exists()
  with pytest.raises(ValueError, match='--workdir: expected'):
    modes.report([])
  with pytest.raises(ValueError, match='expected a directory with a run'):
    modes.report([tmp_path])
