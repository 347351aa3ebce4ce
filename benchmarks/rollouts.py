"""The sampler on random weights, with responses of chosen lengths."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import models
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import decoding, groups, sampler
from sqlm_jax.models import policy as policy_lib


class Sampling:
  """One model and its sampler; every call draws the same responses.

  Attributes:
    policy: what is sampled from.
    params: random weights.
  """

  def __init__(self, config, dtype: str = 'float32', **options: Any):
    """`options` are those of `make_sampler`."""
    self._mesh = models.one_device()
    self.policy = policy_lib.make_policy(config, dtype=dtype, mesh=self._mesh)
    self.params = models.random_params(self.policy, self._mesh)
    self.sample = sampler.make_sampler(self.policy, self._mesh, **options)

  def call(
    self,
    prompts: groups.Prompts,
    settings: sampler.SamplerSettings,
    *,
    slots: int,
    sample: Callable[..., groups.Rollout] | None = None,
  ) -> Callable[[], groups.Rollout]:
    """Samples once, to the last token on the host."""
    sample = sample or self.sample

    def call():
      keys = sampler.response_keys(
        (0,),
        num_groups=len(prompts.tokens),
        group_size=len(settings.temperature),
      )
      return sample(
        self.params,
        sharding.put_rows(prompts, self._mesh),
        keys,
        settings,
        slots=slots,
      )

    return call

  def forced(
    self, prompts: groups.Prompts, lengths_QG: np.ndarray
  ) -> sampler.SamplerSettings:
    """Settings under which the responses have these lengths."""
    vocab_size = self.policy.config.vocab_size
    longest = int(lengths_QG.max())
    settings = models.endless(lengths_QG.shape[1], vocab_size, 1)
    first_QG = self.call(prompts, settings, slots=1)().tokens[..., 0]
    return settings._replace(
      limit=np.int32(longest),
      stop_table=length_table(first_QG, lengths_QG, vocab_size),
    )


def length_table(
  first_QG: np.ndarray, lengths_QG: np.ndarray, vocab_size: int
) -> np.ndarray:
  """A stop table in which the first token decides the length.

  The sampler knows no lengths but one limit. A response's first token is its
  own, but for accidents, and known beforehand: from there the states count
  down, whatever is drawn. Of responses that begin alike the last one decides.

  Returns:
    [states, V]; state s > 1 has s - 1 tokens to go.
  """
  longest = int(lengths_QG.max())
  states = np.arange(longest + 1) - 1
  states[: decoding.STOPPED + 1] = decoding.STOPPED
  table = np.repeat(states.astype(np.int16)[:, None], vocab_size, axis=1)
  # Of n tokens n - 1 are left, which is state n; one token stops at once.
  table[0] = longest
  table[0, first_QG.reshape(-1)] = lengths_QG.reshape(-1)
  return table
