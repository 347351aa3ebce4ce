"""The soak in short: killed twice, and nothing is lost or there twice."""

from benchmarks import kill_soak


def test_two_kills_lose_nothing(tmp_path):
  told = []
  found = kill_soak.soak(
    # A seed whose second moment comes early: then the steps are what counts.
    tmp_path,
    kills=2,
    seed=15,
    first=0.0,
    at_least=5,
    report=told.append,
  )
  # A second save waits for the first: the checkpoint of step 2 is whole when
  # a process plays its fifth step. The next one goes on from there, or later.
  assert found['kills'] == len(told) == 2
  assert found['steps'] >= 2 + 5 + 2
  assert found['before a step'] == 0
