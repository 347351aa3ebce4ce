"""How often answers are right, with intervals: greedy, mean@k, pass@k, maj@k.

Questions are what is drawn from a larger world, so intervals are over
questions; that an answer was sampled is in them, too. How far another seed
would move a figure is told beside it.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epy

with epy.lazy_imports():  # half a second
  from scipy import stats

CONFIDENCE = 0.95
_RESAMPLES = 2000
_RESAMPLED_AT_ONCE = 100  # times the questions, in memory

Row = Mapping[str, Any]


def summarize(
  rows: Sequence[Row], samples: int, *, votes: bool = True
) -> dict[str, dict[str, Any]]:
  """The figures of an evaluation.

  Args:
    rows: at least one question.
    samples: k, sampled answers a question and seed, 0 for none.
    votes: whether answers can be put to a vote; programs cannot.

  Returns:
    A name to value, low and high end of its 95% interval, and for what differs
    from seed to seed its values, 'seeds', and their standard deviation. The
    names are greedy, unreadable, and with samples mean@k, pass@j and maj@k.
  """
  found = {}
  for name, values_QS in by_question(rows, samples, votes=votes).items():
    found[name] = with_interval(values_QS.mean(axis=1))
    if samples and name in (f'mean@{samples}', f'maj@{samples}'):
      one_a_seed = values_QS.mean(axis=0)
      std = float(one_a_seed.std(ddof=1)) if len(one_a_seed) > 1 else None
      found[name] |= {'seeds': one_a_seed.tolist(), 'std': std}
  return found


def by_question(
  rows: Sequence[Row], samples: int, *, votes: bool = True
) -> dict[str, np.ndarray]:
  """What the figures are means of.

  Args:
    rows: at least one question.
    samples: k, sampled answers a question and seed, 0 for none.
    votes: whether answers can be put to a vote.

  Returns:
    A name to values [questions, seeds], or [questions, 1] of what is not told
    for each seed.
  """
  right_QA = np.array([row['right'] for row in rows], np.float64)
  blank_QA = np.array([[a is None for a in row['answers']] for row in rows])
  found = {'greedy': right_QA[:, :1]}
  if samples:
    right_QSK = right_QA[:, 1:].reshape(len(rows), -1, samples)
    found[f'mean@{samples}'] = right_QSK.mean(axis=2)
    for k in _draws(samples, right_QA.shape[1] - 1):
      found[f'pass@{k}'] = pass_at(right_QA[:, 1:], k)[:, None]
    if votes:
      voted = [
        [majority_is_right(*one) for one in sampled(row, samples)]
        for row in rows
      ]
      found[f'maj@{samples}'] = np.array(voted, np.float64)
  found['unreadable'] = blank_QA.mean(axis=1, keepdims=True)
  return found


def pass_at(right_QN: np.ndarray, k: int) -> np.ndarray:
  """The chance that one of k answers is right, an unbiased estimate.

  1 - C(n - c, k) / C(n, k), with c right ones of n answers (Chen et al., 2021,
  "Evaluating Large Language Models Trained on Code", eq. 1).

  Args:
    right_QN: which answers are right [questions, n].
    k: at most n.

  Returns:
    The chance for each question [questions].
  """
  n = right_QN.shape[1]
  if not 1 <= k <= n:
    raise ValueError(f'{k=}: expected 1 to {n}, the answers a question')
  # The ratio as a product over i = n, n - 1, ..., n - c + 1 of 1 - k / i, for
  # every c at once: the binomials themselves overflow.
  factors = np.maximum(1 - k / np.arange(n, 0, -1), 0)
  chances = 1 - np.cumprod([1, *factors])
  return chances[right_QN.sum(axis=1).astype(int)]


def majority_is_right(
  answers: Sequence[str | None], right: Sequence[bool]
) -> bool:
  """Whether the most frequent answer is right (Wang et al., 2022).

  A blank has no vote; of equally frequent answers the first one wins; without
  any readable answer the vote is wrong.
  """
  winner = _majority(answers)
  return winner is not None and right[list(answers).index(winner)]


def agreement(answers: Sequence[str | None]) -> float:
  """The share of all answers, blanks too, that are the most frequent one."""
  winner = _majority(answers)
  if winner is None:
    return 0.0
  return sum(answer == winner for answer in answers) / len(answers)


def sampled(row: Row, samples: int) -> list[tuple[list, list]]:
  """Answers and what is right of them, for each seed."""
  answers, right = row['answers'][1:], row['right'][1:]
  return [
    (answers[first : first + samples], right[first : first + samples])
    for first in range(0, len(answers), samples)
  ]


def with_interval(values_Q: np.ndarray) -> dict[str, float]:
  """The mean over questions and its bootstrap interval.

  The percentile bootstrap (Efron, 1979) over questions, with a fixed seed.
  Where all questions have the same value, every resample is the same: then
  the interval is Wilson's (1927), as if the value were a share of questions,
  which is the widest that values from 0 to 1 with this mean can be spread.

  Args:
    values_Q: from 0 to 1.
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


def wilson(count: float, total: int) -> tuple[float, float]:
  """Wilson's score interval of a share (1927), (0, 1) of nothing.

  The shares p whose distance from count / total is at most z standard errors
  sqrt(p (1 - p) / total). The count need not be whole.
  """
  if not total:
    return 0.0, 1.0
  z = stats.norm.ppf((1 + CONFIDENCE) / 2)
  share, error = count / total, z**2 / total
  centre = (share + error / 2) / (1 + error)
  half = np.sqrt(error * share * (1 - share) + error**2 / 4) / (1 + error)
  # The true ends of 0 and of all are 0 and 1, but for rounding.
  low = 0.0 if count == 0 else centre - half
  high = 1.0 if count == total else centre + half
  return float(low), float(high)


def _majority(answers: Sequence[str | None]) -> str | None:
  counts = collections.Counter(a for a in answers if a is not None)
  # The first of equals: that is the order in which they were counted.
  return counts.most_common(1)[0][0] if counts else None


def _draws(samples: int, most: int) -> list[int]:
  """2, 4, ..., k and all; 1 is left out: pass@1 is the mean."""
  found = {1 << i for i in range(1, most.bit_length())} | {samples, most}
  return sorted(found - {1})
