"""Tests of the append-only file of verdicts."""

import multiprocessing
import os
import signal

from sqlm_jax.workdir import reviews


def append_many(workdir, reviewer, count):
  for i in range(count):
    reviews.append(
      workdir, [{'reviewer': reviewer, 'n': i, 'text': '答え' * 99}]
    )


def test_two_reviewers_at_once_lose_nothing(tmp_path):
  context = multiprocessing.get_context('spawn')
  processes = [
    context.Process(target=append_many, args=(tmp_path, name, 50))
    for name in ('ann', 'ben')
  ]
  for process in processes:
    process.start()
  for process in processes:
    process.join(60)
    assert process.exitcode == 0
  events = reviews.read(tmp_path)
  for name in ('ann', 'ben'):
    assert [e['n'] for e in events if e['reviewer'] == name] == list(range(50))


def test_a_half_written_line_is_no_event_and_keeps_its_number(tmp_path):
  reviews.append(tmp_path, [{'n': 0}])
  with (tmp_path / reviews.NAME).open('ab') as file:
    file.write('{"n": 1, "text": "答'.encode()[:-1])
  assert reviews.read(tmp_path) == [{'n': 0}]
  reviews.append(tmp_path, [{'n': 2}])
  assert reviews.read(tmp_path) == [{'n': 0}, None, {'n': 2}]
  assert reviews.read(tmp_path, 2) == [{'n': 0}, None]


def die_with_the_lock(workdir):
  with reviews._locked(workdir / reviews.NAME):
    with (workdir / reviews.NAME).open('ab') as file:
      file.write(b'{"n": ')
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_writer_that_is_killed_while_it_writes_blocks_nobody(tmp_path):
  reviews.append(tmp_path, [{'n': 0}])
  process = multiprocessing.get_context('spawn').Process(
    target=die_with_the_lock, args=(tmp_path,)
  )
  process.start()
  process.join(60)
  assert process.exitcode == -signal.SIGKILL
  reviews.append(tmp_path, [{'n': 1}])
  assert reviews.read(tmp_path) == [{'n': 0}, None, {'n': 1}]


def test_counts_of_lines_survive_a_half_written_line(tmp_path):
  assert reviews.read_counts(tmp_path) == []
  reviews.append_count(tmp_path, 3, 1)
  with (tmp_path / 'reviews_read.jsonl').open('ab') as file:
    file.write(b'{"step": 4')
  assert reviews.read_counts(tmp_path) == [(3, 1)]
  reviews.append_count(tmp_path, 4, 2)
  assert reviews.read_counts(tmp_path) == [(3, 1), (4, 2)]
