"""A short soak: after two kills, nothing is lost or duplicated."""

from benchmarks import kill_soak


def test_two_kills_lose_nothing(tmp_path):
  reports = []
  result = kill_soak.soak(
    # With this seed, the second kill waits for the minimum number of steps.
    tmp_path,
    kills=2,
    seed=15,
    first=0.0,
    min_steps=5,
    report=reports.append,
  )
  # A save waits for the previous one, so the checkpoint of step 2 is complete
  # when a process plays its fifth step. The next process resumes from that
  # checkpoint or a later one.
  assert result['kills'] == len(reports) == 2
  assert result['steps'] >= 2 + 5 + 2
  assert result['before a step'] == 0
