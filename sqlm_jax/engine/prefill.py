"""Prefill: computes every prompt once and draws the first tokens.

N here is the number of responses of a call, Q * G.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import decoding, groups
from sqlm_jax.models import policy as policy_lib


class Prefilled(NamedTuple):
  """The state of N responses after the prefill of their Q prompts."""

  prefix: decoding.Context  # of the common prefix, or empty
  prompts: policy_lib.KeyValues  # [L, Q, K, P, H]
  progress: decoding.Progress  # [N]
  drawn: decoding.Drawn  # [N, 1]


class Prefill(Protocol):
  """Processes prompts and draws first tokens."""

  def __call__(
    self,
    params: policy_lib.Params,
    prompts: groups.Prompts,
    keys_QG: jax.Array,
    settings: decoding.SamplerSettings,
  ) -> Prefilled:
    """Returns the keys and values of the prompts, and the first tokens.

    Args:
      params: parameters of the policy.
      prompts: the prompts.
      keys_QG: one random key per response.
      settings: sampling settings.
    """


def make_prefill(
  policy: policy_lib.Policy, mesh: jax.sharding.Mesh, *, max_rows: int
) -> Prefill:
  """Returns the program that processes prompts and draws first tokens.

  Args:
    policy: policy to sample from.
    mesh: mesh that groups are split over.
    max_rows: maximum number of first tokens that are drawn at once, rounded to
      whole groups, of which there is at least one. 0 is no limit.
  """

  @jax.jit
  def prefill(
    params: policy_lib.Params,
    prompts: groups.Prompts,
    keys_QG: jax.Array,
    settings: decoding.SamplerSettings,
  ) -> Prefilled:
    num_groups, group_size = keys_QG.shape
    context, last_QD = groups.read_prompts(policy, params, prompts)

    def draw_first(
      prompt: tuple[jax.Array, jax.Array],
    ) -> tuple[decoding.Progress, decoding.Drawn]:
      last_D, keys_G = prompt
      logits_V = policy.logits(params, last_D)
      logits_GV = jnp.broadcast_to(logits_V, (group_size, *logits_V.shape))
      start = decoding.start_progress(group_size, settings)
      return decoding.draw(start, logits_GV, keys_B=keys_G, settings_B=settings)

    at_once = max(max_rows // group_size, 1) if max_rows else num_groups
    progress, drawn = jax.tree.map(
      lambda x: x.reshape(-1),
      jax.lax.map(
        draw_first, (last_QD, keys_QG), batch_size=min(at_once, num_groups)
      ),
    )
    drawn = jax.tree.map(lambda x: x[:, None], drawn)
    *prefix, prompt_keys_values = context
    prompt_keys_values = prompt_keys_values._replace(
      keys=sharding.constrain_cache(prompt_keys_values.keys, mesh),
      values=sharding.constrain_cache(prompt_keys_values.values, mesh),
    )
    progress, drawn = sharding.constrain_replicated((progress, drawn), mesh)
    return Prefilled(tuple(prefix), prompt_keys_values, progress, drawn)

  return prefill
