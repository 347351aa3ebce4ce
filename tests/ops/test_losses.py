"""Losses against numbers worked by hand and expectations by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import losses


def surrogate(ratio, advantage, clip):
  return losses.clipped_surrogate(
    jnp.log(jnp.array([ratio])),
    jnp.zeros(1),
    jnp.array([advantage]),
    clip=clip,
  )


@pytest.mark.parametrize(
  'ratio, advantage, loss, clipped, gradient',
  [
    # Clip 0.25, -min(w A, clamp(w) A). The gradient for logp is -w A where
    # the first is the smaller one, else 0.
    (1.0, 2.0, -2.0, False, -2.0),
    (1.125, 2.0, -2.25, False, -2.25),
    (2.0, 2.0, -2.5, True, 0.0),  # min(4, 1.25 * 2)
    (0.5, 2.0, -1.0, False, -1.0),  # min(1, 0.75 * 2)
    (1.0, -2.0, 2.0, False, 2.0),
    (0.875, -2.0, 1.75, False, 1.75),
    (2.0, -2.0, 4.0, False, 4.0),  # min(-4, -2.5)
    (0.5, -2.0, 1.5, True, 0.0),  # min(-1, -1.5)
    (2.0, 0.0, 0.0, False, 0.0),
    (0.5, 0.0, 0.0, False, 0.0),
  ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, clipped, gradient):
  got, was_clipped = surrogate(ratio, advantage, 0.25)
  # exp(log w) is off by an ulp or two of float32.
  np.testing.assert_allclose(got, [loss], rtol=1e-6)
  assert was_clipped[0] == clipped
  grad = jax.grad(
    lambda logps: jnp.sum(
      losses.clipped_surrogate(
        logps, jnp.zeros(1), jnp.array([advantage]), clip=0.25
      )[0]
    )
  )(jnp.log(jnp.array([ratio])))
  np.testing.assert_allclose(grad, [gradient], rtol=1e-6)


def test_on_policy_the_gradient_is_that_of_reinforce():
  # At w = 1 the gradient of -w A is -A, and the loss -A; nothing is clipped.
  advantages = jnp.array([-1.5, 0.0, 0.25, 3.0])
  logps = jnp.array([-0.1, -2.0, -30.0, 0.0])
  value = lambda x: losses.clipped_surrogate(x, logps, advantages, clip=0.2)
  np.testing.assert_array_equal(value(logps)[0], -advantages)
  assert not value(logps)[1].any()
  grad = jax.grad(lambda x: jnp.sum(value(x)[0]))(logps)
  np.testing.assert_array_equal(grad, -advantages)


def test_advantages_broadcast_over_tokens():
  logps = jnp.zeros((2, 3))
  got, _ = losses.clipped_surrogate(
    logps, logps, jnp.array([[1.0], [-2.0]]), clip=0.2
  )
  np.testing.assert_array_equal(got, [[-1, -1, -1], [2, 2, 2]])


def test_shapes_are_checked():
  with pytest.raises(AssertionError):
    losses.clipped_surrogate(jnp.ones(2), jnp.ones(1), jnp.ones(2), clip=0.2)
  with pytest.raises(AssertionError):
    losses.kl_k3(jnp.ones((1, 2)), jnp.ones(2))


@pytest.mark.parametrize(
  'logp, reference_logp, expected',
  [
    (0.0, 0.0, 0.0),
    (-3.0, -3.0, 0.0),
    # d = log 2: 2 - log 2 - 1. d = -log 2: 1/2 + log 2 - 1.
    (np.log(0.25), np.log(0.5), 1 - np.log(2)),
    (np.log(0.5), np.log(0.25), np.log(2) - 0.5),
    # d = -100: exp(d) is 0, and 100 - 1 stays.
    (0.0, -100.0, 99.0),
  ],
)
def test_k3_by_hand(logp, reference_logp, expected):
  got = losses.kl_k3(jnp.array(logp), jnp.array(reference_logp))
  np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_k3_is_never_negative():
  difference = jnp.concatenate(
    [jnp.linspace(-20, 20, 4001), jnp.logspace(-30, 0, 31)]
  )
  got = losses.kl_k3(jnp.zeros_like(difference), difference)
  assert jnp.all(got >= 0)
  assert jnp.all(got[jnp.abs(difference) > 1e-2] > 0)


@pytest.mark.parametrize('seed', range(3))
def test_expectation_of_k3_is_the_kl(seed):
  """Summed over all outcomes of a small distribution, not sampled."""
  p, q = np.random.default_rng(seed).dirichlet(np.ones(7), 2)
  kl = np.sum(p * (np.log(p) - np.log(q)))
  k3 = losses.kl_k3(jnp.log(jnp.array(p)), jnp.log(jnp.array(q)))
  np.testing.assert_allclose(np.sum(p * np.array(k3)), kl, rtol=1e-5)


def test_gradient_of_k3():
  # d/dlogp (exp(d) - d - 1) with d = ref - logp is 1 - exp(d).
  logps = jnp.log(jnp.array([0.25, 0.5, 0.5]))
  reference = jnp.log(jnp.array([0.5, 0.5, 0.125]))
  grad = jax.grad(lambda x: jnp.sum(losses.kl_k3(x, reference)))(logps)
  np.testing.assert_allclose(grad, [-1.0, 0.0, 0.75], rtol=1e-5, atol=1e-6)
