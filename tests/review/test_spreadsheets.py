"""Tests of verdicts, labels and votes as files."""

import csv
import json

import pytest

from sqlm_jax.game import verdicts
from sqlm_jax.review import commands, spreadsheets
from sqlm_jax.workdir import reviews, run_reader
from tests.review import runs

FORMULA = '=HYPERLINK("http://evil.example")'


@pytest.fixture
def run(tmp_path):
  questions = ('1 + 1', '2 + 2', FORMULA, runs.JAPANESE)
  return runs.write_run(
    tmp_path / 'run', steps=2, questions=questions, **{'review.replay': 0}
  )


def read_csv(path):
  with open(path, encoding='utf-8-sig', newline='') as file:
    return list(csv.DictReader(file))


def write_csv(path, rows):
  with open(path, 'w', encoding='utf-8', newline='') as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)


def test_the_queue_goes_out_and_comes_back(run, tmp_path, capsys):
  path = str(tmp_path / 'queue.csv')
  commands.review(run, files=commands.Files(export_queue=path))
  rows = {row['question']: row for row in read_csv(path)}
  assert rows.keys() == {'1 + 1', '2 + 2', f"'{FORMULA}", runs.JAPANESE}
  assert rows['2 + 2']['agreement'] == '0.500'
  rows['1 + 1']['verdict'] = 'reject'
  rows['2 + 2']['answer'] = '4'  # without a verdict, an answer is a correction
  rows[runs.JAPANESE]['verdict'] = 'exclude'
  write_csv(path, list(rows.values()))
  commands.review(run, files=commands.Files(import_queue=path), reviewer='ann')
  assert '3 from' in capsys.readouterr().out
  known = verdicts.fold(reviews.read(run))
  assert known.true_answer('2 + 2') == '4'
  assert known.refusal('1 + 1') == 'rejected'
  assert known.refusal(runs.JAPANESE) == 'excluded'
  assert {e['reviewer'] for e in run_reader.review_events(run)} == {'ann'}
  # What is decided does not go out again.
  path = str(tmp_path / 'rest.csv')
  commands.review(run, files=commands.Files(export_queue=path))
  assert [row['question'] for row in read_csv(path)] == [f"'{FORMULA}"]


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'verdict': 'maybe'}, r":2: verdict='maybe': expected one of accept"),
    ({'verdict': 'correct'}, r":2: answer='': expected an answer"),
    ({'verdict': 'accept', 'id': 'x'}, r':2: step 1: this question'),
    ({'verdict': 'accept', 'step': 'x'}, r":2: step='x': expected a number"),
    ({'verdict': 'accept', 'index': ''}, r':2: expected index'),
  ],
)
def test_a_wrong_row_is_named_and_nothing_is_written(
  run, tmp_path, changes, message
):
  config = runs.config()
  path = str(tmp_path / 'queue.csv')
  spreadsheets.export_queue(run, config, path)
  rows = [row for row in read_csv(path) if row['question'] == '1 + 1']
  good = rows[0] | {'verdict': 'accept'}
  write_csv(path, [rows[0] | changes, good])
  with pytest.raises(ValueError, match=message):
    spreadsheets.import_queue(run, config, path, 'ann')
  assert reviews.read(run) == []


@pytest.mark.parametrize('name', ['labels.csv', 'labels.jsonl'])
def test_known_answers_override_votes(run, tmp_path, name):
  path = tmp_path / name
  labels = [
    {'question': '1 + 1', 'answer': '2'},
    {'question': runs.JAPANESE, 'answer': '3'},
  ]
  if name.endswith('.csv'):
    write_csv(path, labels)
  else:
    path.write_text('\n'.join(json.dumps(label) for label in labels))
  count = spreadsheets.import_labels(run, runs.config(), str(path), '')
  assert count == 2
  known = verdicts.fold(reviews.read(run))
  assert known.true_answer('1 + 1') == '2'
  assert known.true_answer(runs.JAPANESE) == '3'
  # They say nothing about how often votes are right.
  assert known.random_total == 0


@pytest.mark.parametrize(
  'name, text, message',
  [
    ('a.csv', 'question,answer\n1 + 1,\n', ':2: expected answer'),
    ('a.csv', 'text,answer\n1 + 1,2\n', ':2: expected question'),
    (
      'a.jsonl',
      '{"question": "1 + 1", "answer": 2}\n[]',
      ':2: expected a JSON',
    ),
    ('b.jsonl', None, 'b.jsonl: expected a file that can be read'),
  ],
)
def test_wrong_labels_are_named(run, tmp_path, name, text, message):
  if text is not None:
    (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=message):
    spreadsheets.import_labels(run, runs.config(), str(tmp_path / name), '')
  assert reviews.read(run) == []


def test_an_answer_of_another_kind_is_refused(run, tmp_path):
  (tmp_path / 'a.csv').write_text('question,answer\n1 + 1,two\n')
  config = runs.config(**{'task.answer_kind': 'number'})
  with pytest.raises(ValueError, match=r":2: answer='two': .* 'number'"):
    spreadsheets.import_labels(run, config, str(tmp_path / 'a.csv'), '')


def test_votes_are_labels_for_other_programs(run, tmp_path):
  reviews.append(
    run,
    [
      {
        'verdict': kind,
        'id': verdicts.question_id(question),
        'question': question,
        'answer': answer,
      }
      for question, kind, answer in (
        ('2 + 2', 'correct', '4'),
        (runs.JAPANESE, 'exclude', ''),
      )
    ],
  )
  path = tmp_path / 'votes.jsonl'
  commands.review(run, files=commands.Files(export_votes=str(path)))
  labels = [json.loads(line) for line in path.read_text().splitlines()]
  assert labels == [
    # The newest of two steps; the vote of the test's first question is 0.
    dict(question='1 + 1', answer='0', share=1.0, reviewed=False, step=1),
    dict(question='2 + 2', answer='4', share=0.5, reviewed=True, step=1),
    dict(
      question=FORMULA, answer=runs.SCRIPT, share=0.75, reviewed=False, step=1
    ),
  ]
  with pytest.raises(ValueError, match='expected a new file'):
    commands.review(run, files=commands.Files(export_votes=str(path)))


def test_a_directory_without_a_run_is_refused(tmp_path):
  with pytest.raises(ValueError, match='expected a directory with a run'):
    commands.review(tmp_path, files=commands.Files(export_votes='x'))
  with pytest.raises(ValueError, match='expected a directory with a run'):
    commands.review(tmp_path, files=commands.Files())
