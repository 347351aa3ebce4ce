"""What a decoder is made of: one frozen dataclass for every family."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Sizes and choices of one decoder-only transformer.

  Hashable, so that it can be a static argument. Letters are those of
  `sqlm_jax.shapes`.
  """

  vocab_size: int  # V
  num_layers: int  # L
  width: int  # D
  mlp_width: int  # F
  num_heads: int  # N
  num_kv_heads: int  # K
  head_width: int  # H
  rope_theta: float = 10_000.0
  norm_epsilon: float = 1e-5
  tied_embeddings: bool = True
  context_length: int = 2048  # positions that the model was trained for

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name != 'tied_embeddings' and not value > 0:
        raise ValueError(f'{field.name}={value!r}: expected a positive number')
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads}: expected a multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )
    if self.head_width % 2:
      raise ValueError(
        f'head_width={self.head_width}: expected an even number (rotary pairs)'
      )
