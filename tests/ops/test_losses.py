"""Losses against numbers worked by hand and expectations by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import losses

NAN = float('nan')
INF = float('inf')


def surrogate(ratio, advantage, clip):
  return losses.clipped_surrogate(
    jnp.log(jnp.array([ratio])),
    jnp.zeros(1),
    jnp.array([advantage]),
    clip_ratio=clip,
  )


@pytest.mark.parametrize(
  'ratio, advantage, loss, clipped, gradient',
  [
    # Clip 0.25, -min(w A, clamp(w) A). The gradient for logp is -w A where
    # the first term is smaller, otherwise 0.
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
        logps, jnp.zeros(1), jnp.array([advantage]), clip_ratio=0.25
      )[0]
    )
  )(jnp.log(jnp.array([ratio])))
  np.testing.assert_allclose(grad, [gradient], rtol=1e-6)


def test_on_policy_the_gradient_is_that_of_reinforce():
  # At w = 1, the loss and the gradient of -w A are -A; nothing is clipped.
  advantages = jnp.array([-1.5, 0.0, 0.25, 3.0])
  logps = jnp.array([-0.1, -2.0, -30.0, 0.0])

  def value(x):
    return losses.clipped_surrogate(x, logps, advantages, clip_ratio=0.2)

  np.testing.assert_array_equal(value(logps)[0], -advantages)
  assert not value(logps)[1].any()
  grad = jax.grad(lambda x: jnp.sum(value(x)[0]))(logps)
  np.testing.assert_array_equal(grad, -advantages)


def test_advantages_broadcast_over_tokens():
  logps = jnp.zeros((2, 3))
  got, _ = losses.clipped_surrogate(
    logps, logps, jnp.array([[1.0], [-2.0]]), clip_ratio=0.2
  )
  np.testing.assert_array_equal(got, [[-1, -1, -1], [2, 2, 2]])


def test_shapes_are_checked():
  with pytest.raises(AssertionError):
    losses.clipped_surrogate(
      jnp.ones(2), jnp.ones(1), jnp.ones(2), clip_ratio=0.2
    )
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
  """The expectation is a sum over all outcomes of a small distribution."""
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


def loss_and_gradient(log_ratio, advantage, **settings):
  """Loss, clipped and gradient of one token, as Python scalars."""

  @jax.jit
  def loss(logp):
    return losses.clipped_surrogate(
      logp, jnp.zeros(()), jnp.array(advantage), **settings
    )

  (value, clipped), gradient = jax.value_and_grad(loss, has_aux=True)(
    jnp.array(log_ratio)
  )
  return float(value), bool(clipped), float(gradient)


@pytest.mark.parametrize(
  'ratio, advantage, expected',
  [
    # Clip 0.25 down, 1 up: min(w A, clamp(w, 0.75, 2) A).
    (1.5, 2.0, (-3.0, False, -3.0)),  # above 1.25, still below 2
    (4.0, 2.0, (-4.0, True, 0.0)),  # min(8, 2 * 2)
    (0.5, 2.0, (-1.0, False, -1.0)),  # min(1, 1.5)
    (0.5, -2.0, (1.5, True, 0.0)),  # min(-1, -1.5)
    (1.5, -2.0, (3.0, False, 3.0)),
    (4.0, -2.0, (8.0, False, 8.0)),  # min(-8, -4)
  ],
)
def test_clip_high_by_hand(ratio, advantage, expected):
  got = loss_and_gradient(
    np.log(ratio), advantage, clip_ratio=0.25, clip_ratio_high=1.0
  )
  np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
  'ratio, advantage, expected',
  [
    # As above with c = 3. A < 0: max(min(w A, clamp(w, 0.75, 1.25) A), 3 A).
    (4.0, -2.0, (6.0, True, 0.0)),  # max(-8, -6)
    (2.0, -2.0, (4.0, False, 4.0)),  # max(-4, -6)
    (0.5, -2.0, (1.5, True, 0.0)),
    (4.0, 2.0, (-2.5, True, 0.0)),  # only the clamp counts where A > 0
    (4.0, 0.0, (0.0, False, 0.0)),
  ],
)
def test_dual_clip_by_hand(ratio, advantage, expected):
  got = loss_and_gradient(
    np.log(ratio), advantage, clip_ratio=0.25, dual_clip=3.0
  )
  np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize('advantage', [-1.0, 0.0, 1.0])
def test_dual_clip_bears_a_ratio_that_overflows(advantage):
  got = loss_and_gradient(200.0, advantage, clip_ratio=0.25, dual_clip=3.0)
  loss = {-1.0: 3.0, 0.0: 0.0, 1.0: -1.25}[advantage]
  np.testing.assert_allclose(got, (loss, advantage != 0, 0), rtol=1e-6)


@pytest.mark.parametrize('log_ratio', [21.0, 89.0, 200.0, INF])
@pytest.mark.parametrize(
  'advantage, loss',
  # Clamped at 1.25 where A > 0; the unclipped term counts where A < 0.
  [(1.0, -1.25), (0.0, 0.0), (-1.0, np.exp(20.0))],
)
def test_ratios_that_overflow_have_a_loss_and_no_gradient(
  log_ratio, advantage, loss
):
  got = loss_and_gradient(log_ratio, advantage, clip_ratio=0.25)
  np.testing.assert_allclose(got, (loss, advantage != 0, 0), rtol=1e-6)


@pytest.mark.parametrize('difference', [21.0, 89.0, 200.0])
def test_k3_that_overflows_is_bounded(difference):
  value, gradient = jax.value_and_grad(losses.kl_k3)(
    jnp.zeros(()), jnp.array(difference)
  )
  np.testing.assert_allclose(value, np.exp(20.0) - 21, rtol=1e-6)
  assert gradient == 0


@pytest.mark.parametrize('dual_clip', [0.5, 1.0, 1.3, float('nan')])
def test_dual_clip_lies_outside_of_the_range(dual_clip):
  with pytest.raises(ValueError, match='dual_clip='):
    loss_and_gradient(
      0.0, 1.0, clip_ratio=0.2, clip_ratio_high=0.3, dual_clip=dual_clip
    )


def test_what_is_not_given_changes_nothing():
  random = np.random.default_rng(0)
  logps, old, advantages = jnp.array(random.normal(size=(3, 50)))

  def value(**more):
    return losses.clipped_surrogate(
      logps, old, advantages, clip_ratio=0.2, **more
    )

  for got, expected in zip(value(clip_ratio_high=0.2), value(), strict=True):
    np.testing.assert_array_equal(got, expected)


def test_sequence_ratio_by_hand():
  # Differences 1, 2, 6 of three tokens: 3. One token: its own. None: 0.
  got = losses.sequence_log_ratio(
    jnp.array([[0.0, 0.0, 0.0], [-1.0, NAN, INF], [NAN, NAN, NAN]]),
    jnp.array([[-1.0, -2.0, -6.0], [-3.0, -1.0, NAN], [0.0, INF, NAN]]),
    jnp.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], bool),
  )
  np.testing.assert_array_equal(got, [[3, 3, 3], [2, 0, 0], [0, 0, 0]])


def test_gradient_of_the_sequence_ratio():
  # s_t has the gradient s of its own token, and none of others: s = exp(3).
  mask = jnp.array([1, 1, 1, 0], bool)
  old = jnp.array([-1.0, -2.0, -6.0, NAN])
  weights = jnp.array([1.0, 2.0, 0.0, 5.0])
  grad = jax.grad(
    lambda x: jnp.sum(
      jnp.exp(losses.sequence_log_ratio(x, old, mask)) * weights
    )
  )(jnp.zeros(4))
  np.testing.assert_allclose(grad, [np.exp(3), 2 * np.exp(3), 0, 0], rtol=1e-6)


def test_sequences_are_clipped_together():
  # Token ratios 2 and 1/2 have the geometric mean 1: nothing is clipped.
  # 2 and 2 have 2, above 1.25: no token has a gradient.
  logps = jnp.log(jnp.array([[2.0, 0.5], [2.0, 2.0]]))
  mask = jnp.ones((2, 2), bool)

  def loss(logps):
    log_ratio = losses.sequence_log_ratio(logps, jnp.zeros((2, 2)), mask)
    value, clipped = losses.clipped_surrogate(
      log_ratio, jnp.zeros((2, 2)), jnp.ones((2, 2)), clip_ratio=0.25
    )
    return jnp.sum(value), clipped

  grad, clipped = jax.grad(loss, has_aux=True)(logps)
  assert clipped.tolist() == [[False, False], [True, True]]
  np.testing.assert_allclose(grad, [[-1, -1], [0, 0]], atol=1e-6)


@pytest.mark.parametrize(
  'logp, reference_logp, k1, k2',
  [
    (0.0, 0.0, 0.0, 0.0),
    (-1.0, -3.0, 2.0, 2.0),  # d = -2
    (-3.0, -2.0, -1.0, 0.5),  # d = 1
  ],
)
def test_k1_and_k2_by_hand(logp, reference_logp, k1, k2):
  pair = jnp.array(logp), jnp.array(reference_logp)
  assert losses.kl_k1(*pair) == k1
  assert losses.kl_k2(*pair) == k2


def kl(p_logits, q_logits):
  logp, logq = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
  return jnp.sum(jnp.exp(logp) * (logp - logq))


@pytest.mark.parametrize(
  'estimator, true_gradient',
  [
    (losses.kl_k1, lambda p, q: jnp.zeros_like(p)),
    (losses.kl_k2, jax.grad(kl)),
    (losses.kl_k3, jax.grad(lambda p, q: kl(q, p))),
  ],
)
def test_expected_gradient_of_a_kl_loss(estimator, true_gradient):
  """The gradient of k2 is that of the KL, that of k3 of the reverse KL."""
  p, q = jnp.array(np.random.default_rng(0).normal(size=(2, 7)))
  reference = jax.nn.log_softmax(q)
  # Samples come from a policy that is not differentiated.
  frequency = jax.nn.softmax(p)
  got = jax.grad(
    lambda p: jnp.sum(frequency * estimator(jax.nn.log_softmax(p), reference))
  )(p)
  np.testing.assert_allclose(got, true_gradient(p, q), rtol=1e-5, atol=1e-6)


def test_expectation_of_k1_is_the_kl():
  p, q = jnp.array(np.random.default_rng(1).normal(size=(2, 7)))
  k1 = losses.kl_k1(jax.nn.log_softmax(p), jax.nn.log_softmax(q))
  np.testing.assert_allclose(
    jnp.sum(jax.nn.softmax(p) * k1), kl(p, q), rtol=1e-5
  )


def test_a_step_down_the_entropy_bonus_raises_the_entropy():
  def entropy(logits):
    logps = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(logps) * logps)

  logits = jnp.array([2.0, 0.0, -1.0])
  grad = jax.grad(
    lambda x: losses.entropy_bonus(entropy(x), entropy_coef=0.01)
  )(logits)
  assert entropy(logits - grad) > entropy(logits)
  assert losses.entropy_bonus(jnp.array(3.0), entropy_coef=0.5) == -1.5


@pytest.mark.parametrize(
  'value, old_value, target, loss, clipped, gradient',
  [
    # Clip 1/2. max((V - R)^2, (clamp(V, V_old - 1/2, V_old + 1/2) - R)^2) / 2.
    (1.0, 1.0, 3.0, 2.0, False, -2.0),
    (1.25, 1.0, 3.0, 1.53125, False, -1.75),
    (2.0, 1.0, 3.0, 1.125, True, 0.0),  # clamped to 1.5, towards the target
    (2.0, 1.0, 0.0, 2.0, False, 2.0),  # away from it: not clipped
    (3.0, 1.0, 3.0, 1.125, True, 0.0),  # arrived, too fast
    (-1.0, 1.0, -1.0, 1.125, True, 0.0),  # clamped to 0.5
  ],
)
def test_value_loss_by_hand(value, old_value, target, loss, clipped, gradient):
  def of(value):
    return losses.clipped_value_loss(
      value, jnp.array(old_value), jnp.array(target), value_clip=0.5
    )

  got, was_clipped = of(jnp.array(value))
  assert (got, was_clipped) == (loss, clipped)  # exact in binary
  assert jax.grad(lambda x: of(x)[0])(jnp.array(value)) == gradient


@pytest.mark.parametrize(
  'average, expected',
  [
    # Counted lengths are 2, 4 and 2, 0: 8 tokens, 3 responses with tokens.
    ('token', [[1 / 8, 1 / 8, 0], [1 / 8, 0, 1 / 8]]),
    ('sequence', [[1 / 6, 1 / 12, 0], [1 / 6, 0, 1 / 3]]),
    # 4 responses of at most 10 tokens.
    ('constant', [[1 / 40, 1 / 40, 0], [1 / 40, 0, 1 / 40]]),
  ],
)
def test_token_weights_by_hand(average, expected):
  lengths = jnp.array([[2, 4, 7], [2, 3, 0]])
  counted = jnp.array([[1, 1, 0], [1, 0, 1]], bool)
  got = losses.token_weights(
    lengths, counted, aggregation=average, max_tokens=10
  )
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  nobody = losses.token_weights(
    lengths, jnp.zeros((2, 3), bool), aggregation=average, max_tokens=10
  )
  np.testing.assert_array_equal(nobody, np.zeros((2, 3)))


def test_constant_weights_of_one_token_sum_over_a_response():
  got = losses.token_weights(
    jnp.array([[3, 5]]),
    jnp.ones((1, 2), bool),
    aggregation='constant',
    max_tokens=1,
  )
  np.testing.assert_array_equal(got, [[0.5, 0.5]])


def test_an_average_is_one_of_three():
  lengths, counted = jnp.ones((1, 1), int), jnp.ones((1, 1), bool)
  with pytest.raises(ValueError, match="aggregation='mean'"):
    losses.token_weights(lengths, counted, aggregation='mean')
  with pytest.raises(ValueError, match='max_tokens=None'):
    losses.token_weights(lengths, counted, aggregation='constant')
  with pytest.raises(AssertionError):
    losses.token_weights(lengths, counted[0], aggregation='token')


@pytest.mark.parametrize('average', ['token', 'sequence', 'constant'])
def test_the_weighted_sum_is_the_average(average):
  """Compares with the definitions on random losses in float64."""
  random = np.random.default_rng(0)
  loss = random.normal(size=(6, 5, 9))
  lengths, counted = random.integers(1, 10, (6, 5)), random.random((6, 5)) < 0.7
  rows = [loss[i][: lengths[i]] for i in np.ndindex(6, 5) if counted[i]]
  expected = {
    'token': np.mean(np.concatenate(rows)),
    'sequence': np.mean([row.mean() for row in rows]),
    'constant': np.mean([row.sum() / 9 for row in rows]),
  }[average]
  weights = losses.token_weights(
    lengths, counted, aggregation=average, max_tokens=9
  )
  mask = np.arange(9) < lengths[..., None]
  got = np.sum(loss * mask * np.asarray(weights)[..., None])
  np.testing.assert_allclose(got, expected, rtol=1e-6)
