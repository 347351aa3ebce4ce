"""Tests of the check of the learning rate against the size of the weights."""

import numpy as np
import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.config import training_schema
from sqlm_jax.run import build, learning_rate, train_states


def params_of_size(*sizes: float):
  signs = np.array([[1, -1], [-1, 1]], np.float32)
  matrices = {f'layer_{i}': {'kernel': s * signs} for i, s in enumerate(sizes)}
  return matrices | {'norm': {'scale': np.full(2, 100, np.float32)}}


def test_the_size_is_the_median_over_matrices():
  size = learning_rate.weight_size(params_of_size(0.01, 0.2, 5.0))
  assert size == pytest.approx(0.2)


@pytest.mark.parametrize(
  'rate, size, max_update_kl',
  [(1e-5, 0.2, 0.0), (1e-6, 0.04, 0.0), (1e-5, 0.04, 0.02), (0.0, 0.0, 0.0)],
)
def test_a_rate_that_fits_the_weights_is_accepted(rate, size, max_update_kl):
  config = training_schema.Optimizer(
    learning_rate=rate, max_update_kl=max_update_kl
  )
  learning_rate.check(config, params_of_size(size))


def test_a_rate_that_is_too_high_is_refused_with_advice():
  config = training_schema.Optimizer(learning_rate=1e-5)
  with pytest.raises(ValueError, match=r'learning_rate=1e-05: expected') as e:
    learning_rate.check(config, params_of_size(0.05))
  message = str(e.value)
  assert 'at most 7e-06 for this model' in message
  assert 'weights have a root mean square of 0.05.' in message
  assert '--config.optimizer.learning_rate=1e-06' in message
  assert '--config.optimizer.max_update_kl=0.02' in message
  assert message.endswith('see docs/your_model.md')


def test_pretrained_weights_are_checked_before_training():
  c = smoke.get_config()
  c.optimizer.learning_rate = 1.0
  parts = build.build(config_lib.from_dict(c.to_dict()))
  train_states.initial_states(parts)  # random weights may have any rate
  c.model.path = 'a/pretrained-model'
  parts = parts._replace(config=config_lib.from_dict(c.to_dict()))
  with pytest.raises(ValueError, match=r'optimizer\.learning_rate=1: expected'):
    train_states.initial_states(parts)
