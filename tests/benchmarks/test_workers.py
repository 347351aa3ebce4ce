"""Requests to a worker process."""

import pytest

from benchmarks import workers


def test_requests_are_answered():
  with workers.Worker('tests.benchmarks.answering') as worker:
    assert worker.hello == {'ready': True}
    assert worker.ask(x=3) == {'square': 9}
    assert worker.ask(x=4) == {'square': 16}
    with pytest.raises(RuntimeError, match=r'answering ended with status 0'):
      worker.ask(x=-1)
