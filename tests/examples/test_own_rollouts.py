"""The example trains on the rollouts that it is given."""

import numpy as np

from examples import own_rollouts


def test_the_rewarded_answer_becomes_more_likely():
  history = own_rollouts.main(num_updates=3)
  assert np.all(np.diff(history) > 1.0)  # nats
