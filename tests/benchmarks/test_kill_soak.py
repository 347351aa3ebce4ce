"""The soak in short: killed twice, and nothing is lost or there twice."""

from benchmarks import kill_soak


def test_two_kills_lose_nothing(tmp_path):
  told = []
  found = kill_soak.soak(
    # A seed whose second moment comes early: then three steps are what counts.
    tmp_path,
    kills=2,
    seed=15,
    first=0.0,
    at_least=3,
    report=told.append,
  )
  # Each process played three steps at least, from a checkpoint on.
  assert found['kills'] == len(told) == 2
  assert found['steps'] >= 3 + 1 + 2
  assert found['before a step'] == 0
