"""Decoder configs: frozen dataclasses for all model families."""

import dataclasses
import math
from collections.abc import Set

ROPE_KINDS = ('default', 'linear', 'llama3', 'yarn')
NORM_PLACEMENTS = ('pre', 'post', 'both')
QK_NORMS = ('none', 'head', 'flat')
ACTIVATIONS = ('silu', 'gelu_tanh')


def _check_numbers(
  config: 'Rope | ModelConfig', may_be_0: Set[str] = frozenset()
) -> None:
  """Checks the types and signs of all number and bool fields."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    kind = field.type
    is_exact = isinstance(kind, type) and kind in (bool, int)
    if is_exact and type(value) is not kind:
      raise ValueError(f'{field.name}={value!r}: expected {kind.__name__}')
    if kind not in (int, float) or (value == 0 and field.name in may_be_0):
      continue
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
      raise ValueError(f'{field.name}={value!r}: expected a positive number')


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise ValueError(f'{name}={value!r}: expected one of {", ".join(allowed)}')


@dataclasses.dataclass(frozen=True)
class Rope:
  """Rotary position embedding and its extension to longer contexts.

  `sqlm_jax.models.rope` explains the fields.
  """

  theta: float = 10_000.0
  kind: str = 'default'  # one of ROPE_KINDS
  factor: float = 1.0
  original_context: int = 8192  # context length before the extension
  low_frequency_factor: float = 1.0  # llama3
  high_frequency_factor: float = 4.0  # llama3
  beta_fast: float = 32.0  # yarn
  beta_slow: float = 1.0  # yarn
  truncate: bool = True  # yarn: round the ends of the ramp to whole pairs
  attention_factor: float = 1.0  # yarn: multiplies rotated queries and keys

  def __post_init__(self) -> None:
    _one_of('kind', self.kind, ROPE_KINDS)
    _check_numbers(self)
    if self.kind == 'yarn' and self.theta <= 1:  # yarn divides by log(theta)
      raise ValueError(f'theta={self.theta!r}: expected more than 1 for yarn')
    low, high = self.low_frequency_factor, self.high_frequency_factor
    if self.kind == 'llama3' and low >= high:
      raise ValueError(
        f'low_frequency_factor={low!r}: expected less than '
        f'high_frequency_factor={high!r}'
      )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Sizes and architecture choices of a decoder-only transformer.

  The config is hashable, so that it can be a static argument. Dimension letters
  are defined in `sqlm_jax.ops.shapes`. The defaults are those of Llama.
  """

  vocab_size: int  # V
  num_layers: int  # L
  width: int  # D
  mlp_width: int  # F
  num_heads: int  # N
  num_kv_heads: int  # K
  head_width: int  # H
  rope: Rope = Rope()
  local_rope: Rope | None = None  # for layers with a window, if it differs
  # Attention window of each layer in tokens, including the token itself. 0
  # means no limit, and an empty tuple means no limit in any layer.
  windows: tuple[int, ...] = ()
  attention_scale: float = 0.0  # multiplies query . key; 0 means 1 / sqrt(H)
  attention_softcap: float = 0.0  # 0 disables it
  logit_softcap: float = 0.0  # 0 disables it
  qkv_bias: bool = False
  output_bias: bool = False  # bias of the attention's output projection
  mlp_bias: bool = False
  # Norm of queries and keys before rotation: 'none', over each head ('head'),
  # or over all heads together ('flat').
  qk_norm: str = 'none'
  # Before each sublayer ('pre'), after it and before the residual sum ('post'),
  # or 'both'.
  norm_placement: str = 'pre'
  norm_offset: float = 0.0  # added to the scale of every norm
  norm_epsilon: float = 1e-5
  activation: str = 'silu'
  scale_embedding: bool = False  # multiply embeddings by sqrt(D)
  tied_embeddings: bool = True
  context_length: int = 2048  # positions that the model was trained for

  def __post_init__(self) -> None:
    _one_of('qk_norm', self.qk_norm, QK_NORMS)
    _one_of('norm_placement', self.norm_placement, NORM_PLACEMENTS)
    _one_of('activation', self.activation, ACTIVATIONS)
    may_be_0 = {
      'attention_scale',
      'attention_softcap',
      'logit_softcap',
      'norm_offset',
    }
    _check_numbers(self, may_be_0)
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads}: expected a multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )
    if self.head_width % 2:
      raise ValueError(
        f'head_width={self.head_width}: expected an even number (rotary pairs)'
      )
    if self.windows and (
      len(self.windows) != self.num_layers or min(self.windows) < 0
    ):
      raise ValueError(
        f'windows={self.windows!r}: expected one number of tokens for each of '
        f'{self.num_layers} layers, 0 for all'
      )
