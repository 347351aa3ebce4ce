"""Accuracy with confidence intervals: greedy, mean@k, pass@k and maj@k.

The questions are treated as a sample of a larger population, so intervals are
over questions; they include the randomness of the sampled answers. The standard
deviation over seeds is reported separately.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epy

with epy.lazy_imports():  # takes half a second
  from scipy import stats

CONFIDENCE = 0.95
_RESAMPLES = 2000
_RESAMPLED_AT_ONCE = 100  # resamples in memory at once

Row = Mapping[str, Any]


def summarize(
  rows: Sequence[Row], samples: int, *, votes: bool = True
) -> dict[str, dict[str, Any]]:
  """Computes the figures of an evaluation.

  Args:
    rows: Rows of at least one question.
    samples: k, the number of sampled answers per question and seed; 0 for none.
    votes: True if answers can be put to a vote; programs cannot.

  Returns:
    For each figure, its 'value' and the ends of its 95% interval, 'low' and
    'high'. mean@k and maj@k also have 'seeds', the value for each seed, and
    'std', the standard deviation of these values, None for a single seed. The
    figures are greedy, unparsed and, with samples, mean@k, pass@j and maj@k.
  """
  figures: dict[str, dict[str, Any]] = {}
  for name, values_QS in by_question(rows, samples, votes=votes).items():
    figures[name] = with_interval(values_QS.mean(axis=1))
    if samples and name in (f'mean@{samples}', f'maj@{samples}'):
      mean_S = values_QS.mean(axis=0)
      std = float(mean_S.std(ddof=1)) if len(mean_S) > 1 else None
      figures[name] |= {'seeds': mean_S.tolist(), 'std': std}
  return figures


def by_question(
  rows: Sequence[Row], samples: int, *, votes: bool = True
) -> dict[str, np.ndarray]:
  """Computes the value of each figure for each question.

  Args:
    rows: Rows of at least one question.
    samples: k, the number of sampled answers per question and seed; 0 for none.
    votes: True if answers can be put to a vote.

  Returns:
    Values [questions, seeds] by figure, or [questions, 1] for figures that are
    not computed per seed.
  """
  right_QA = np.array([row['right'] for row in rows], np.float64)
  unparsed_QA = np.array([[a is None for a in row['answers']] for row in rows])
  values = {'greedy': right_QA[:, :1]}
  if samples:
    right_QSK = right_QA[:, 1:].reshape(len(rows), -1, samples)
    values[f'mean@{samples}'] = right_QSK.mean(axis=2)
    for k in _draws(samples, right_QA.shape[1] - 1):
      values[f'pass@{k}'] = pass_at(right_QA[:, 1:], k)[:, None]
    if votes:
      voted = [
        [majority_is_right(*answers) for answers in sampled(row, samples)]
        for row in rows
      ]
      values[f'maj@{samples}'] = np.array(voted, np.float64)
  values['unparsed'] = unparsed_QA.mean(axis=1, keepdims=True)
  return values


def pass_at(right_QN: np.ndarray, k: int) -> np.ndarray:
  """Estimates the probability that at least one of k answers is right.

  The unbiased estimate is 1 - C(n - c, k) / C(n, k) if c of n answers are right
  (Chen et al., 2021, "Evaluating Large Language Models Trained on Code",
  eq. 1).

  Args:
    right_QN: 1 for each right answer, otherwise 0 [questions, n].
    k: Number of answers, at most n.

  Returns:
    The probability for each question [questions].

  Raises:
    ValueError: If k is not between 1 and n.
  """
  n = right_QN.shape[1]
  if not 1 <= k <= n:
    raise ValueError(
      f'{k=}: expected 1 to {n}, the number of answers per question'
    )
  # Computes the ratio as the product of 1 - k / i over i = n, n - 1, ...,
  # n - c + 1, for every c at once, because the binomials would overflow.
  factors = np.maximum(1 - k / np.arange(n, 0, -1), 0)
  chances = 1 - np.cumprod([1, *factors])
  return chances[right_QN.sum(axis=1).astype(int)]


def majority_is_right(
  answers: Sequence[str | None], right: Sequence[bool]
) -> bool:
  """Returns True if the most frequent answer is right (Wang et al., 2022).

  Unparsed answers do not vote. The first of equally frequent answers wins.
  If all answers are unparsed, the vote is wrong.
  """
  winner = _majority(answers)
  return winner is not None and right[list(answers).index(winner)]


def agreement(answers: Sequence[str | None]) -> float:
  """Returns the fraction of all answers that equal the most frequent answer.

  Unparsed answers count towards the total.
  """
  winner = _majority(answers)
  if winner is None:
    return 0.0
  return sum(answer == winner for answer in answers) / len(answers)


def sampled(row: Row, samples: int) -> list[tuple[list, list]]:
  """Returns the sampled answers and their correctness for each seed."""
  answers, right = row['answers'][1:], row['right'][1:]
  return [
    (answers[first : first + samples], right[first : first + samples])
    for first in range(0, len(answers), samples)
  ]


def with_interval(values_Q: np.ndarray) -> dict[str, float]:
  """Computes the mean over questions and its confidence interval.

  The interval is the percentile bootstrap (Efron, 1979) over questions, with a
  fixed seed. If all questions have the same value, every resample is the same.
  The interval is then Wilson's (1927) for a fraction of questions that equals
  the value; this corresponds to the largest spread that values from 0 to 1 with
  this mean can have.

  Args:
    values_Q: Values from 0 to 1.
  """
  values_Q = np.asarray(values_Q, np.float64)
  value = float(values_Q.mean())
  if np.ptp(values_Q.round(12)) == 0:
    low, high = wilson(value * len(values_Q), len(values_Q))
  else:
    low, high = stats.bootstrap(
      (values_Q,),
      np.mean,
      confidence_level=CONFIDENCE,
      n_resamples=_RESAMPLES,
      batch=_RESAMPLED_AT_ONCE,
      method='percentile',
      rng=np.random.default_rng(0),
    ).confidence_interval
  return {'value': value, 'low': float(low), 'high': float(high)}


def wilson(count: float, total: float) -> tuple[float, float]:
  """Computes Wilson's score interval of a fraction (1927).

  The interval contains the fractions p whose distance from count / total is at
  most z standard errors sqrt(p (1 - p) / total). It is (0, 1) if `total` is 0.

  Args:
    count: Number of successes, which need not be an integer.
    total: Number of trials.
  """
  if not total:
    return 0.0, 1.0
  z = stats.norm.ppf((1 + CONFIDENCE) / 2)
  share, error = count / total, z**2 / total
  centre = (share + error / 2) / (1 + error)
  half = np.sqrt(error * share * (1 - share) + error**2 / 4) / (1 + error)
  # Avoids rounding errors at the ends, which are exactly 0 and 1.
  low = 0.0 if count == 0 else centre - half
  high = 1.0 if count == total else centre + half
  return float(low), float(high)


def _majority(answers: Sequence[str | None]) -> str | None:
  counts = collections.Counter(a for a in answers if a is not None)
  # `most_common` returns equally frequent answers in order of occurrence.
  return counts.most_common(1)[0][0] if counts else None


def _draws(samples: int, total: int) -> list[int]:
  """Returns the values of k for pass@k: powers of 2, `samples` and `total`.

  1 is left out, because pass@1 is the mean.
  """
  powers = {1 << i for i in range(1, total.bit_length())}
  return sorted((powers | {samples, total}) - {1})
