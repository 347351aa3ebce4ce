"""Runs the sampler on random weights, with responses of chosen lengths."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import models
from sqlm_jax.distributed import transfers
from sqlm_jax.engine import decoding, groups, sampler
from sqlm_jax.models import policy as policy_lib


class Sampling:
  """A model and its sampler; every call samples the same responses.

  Attributes:
    policy: the policy to sample from.
    params: random parameters.
    sample: the sampler.
  """

  def __init__(self, config, dtype: str = 'float32', **options: Any):
    """Creates the model; `options` are passed to `make_sampler`."""
    self._mesh = models.one_device()
    self.policy = policy_lib.make_policy(config, dtype=dtype, mesh=self._mesh)
    self.params = models.random_params(self.policy, self._mesh)
    self.sample = sampler.Sampler(self.policy, self._mesh, **options)

  def call(
    self,
    prompts: groups.Prompts,
    settings: sampler.SamplerSettings,
    *,
    slots: int,
    sample: Callable[..., groups.Rollout] | None = None,
  ) -> Callable[[], groups.Rollout]:
    """Returns a function that samples once and waits for all tokens."""
    sample = sample or self.sample

    def call():
      keys = sampler.response_keys(
        (0,),
        num_groups=len(prompts.tokens),
        group_size=len(settings.temperature),
      )
      return sample(
        self.params,
        transfers.put_rows(prompts, self._mesh),
        keys,
        settings,
        slots=slots,
      )

    return call

  def forced(
    self, prompts: groups.Prompts, lengths_QG: np.ndarray
  ) -> sampler.SamplerSettings:
    """Returns settings with which the responses have the given lengths."""
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
  """Returns a stop table in which the first token determines the length.

  The sampler itself supports only one limit for all responses. The first token
  of each response is known in advance and, except by chance, unique. It selects
  a state, and the following states count down for any tokens. If responses
  begin with the same token, the last of them determines their length.

  Returns:
    [states, V]; in state s > 1, s - 1 tokens remain.
  """
  longest = int(lengths_QG.max())
  states = np.arange(longest + 1) - 1
  states[: decoding.STOPPED + 1] = decoding.STOPPED
  table = np.repeat(states.astype(np.int16)[:, None], vocab_size, axis=1)
  # Of n tokens, n - 1 remain after the first: state n; one token stops at once.
  table[0] = longest
  table[0, first_QG.reshape(-1)] = lengths_QG.reshape(-1)
  return table
