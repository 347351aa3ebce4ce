"""Model sizes and workloads for planning, and the flags that select them."""

import pathlib
from typing import NamedTuple

import jax
from absl import flags

from sqlm_jax.models import layers, model_config
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import loader

DTYPES = {
  # name: (dtype of stored parameters, dtype of computation)
  'mixed': ('float32', 'bfloat16'),
  'bfloat16': ('bfloat16', 'bfloat16'),
  'float32': ('float32', 'float32'),
}


def _qwen(layers, width, mlp, heads, kv_heads, vocab, tied):
  return model_config.ModelConfig(
    vocab_size=vocab,
    num_layers=layers,
    width=width,
    mlp_width=mlp,
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_width=width // heads,
    qkv_bias=True,
    tied_embeddings=tied,
  )


# Qwen2.5, from the config.json of each model.
MODELS = {
  '0.5B': _qwen(24, 896, 4864, 14, 2, 151936, True),
  '1.5B': _qwen(28, 1536, 8960, 12, 2, 151936, True),
  '3B': _qwen(36, 2048, 11008, 16, 2, 151936, True),
  '7B': _qwen(28, 3584, 18944, 28, 4, 152064, False),
  '14B': _qwen(48, 5120, 13824, 40, 8, 152064, False),
  '32B': _qwen(64, 5120, 27648, 40, 8, 152064, False),
}


class Workload(NamedTuple):
  """The sequences that are sampled together, by default as in the paper."""

  questions: int = 256
  group_size: int = 4
  prompt_tokens: int = 512
  tokens: int = 1024


PAPER = Workload()


def make_policy(
  config: model_config.ModelConfig,
  *,
  dtypes: str,
  lora_rank: int = 0,
  remat: str = 'none',
  kernels: bool = True,
  mesh: jax.sharding.Mesh | None = None,
) -> policy_lib.Policy:
  """Returns the policy of `config`; `dtypes` is a key of `DTYPES`."""
  stored, computed = DTYPES[dtypes]
  return policy_lib.make_policy(
    config,
    dtype=computed,
    param_dtype=stored,
    remat=remat,
    kernels=kernels,
    mesh=mesh,
    lora=layers.Lora(lora_rank, 1.0) if lora_rank else None,
  )


def models() -> dict[str, model_config.ModelConfig]:
  """Returns the models of --models by name, or the model at --model_path."""
  if _MODEL_PATH.value:
    path = pathlib.Path(_MODEL_PATH.value)
    if not path.exists():
      raise ValueError(
        f'--model_path={path}: expected a directory or a GGUF file'
      )
    return {path.name: loader.open_checkpoint(path).config}
  for name in _MODELS.value:
    if name not in MODELS:
      raise ValueError(f'--models={name}: expected some of {", ".join(MODELS)}')
  return {name: MODELS[name] for name in _MODELS.value}


def workload() -> Workload:
  """Returns the workload that the flags define."""
  return Workload(
    _QUESTIONS.value, _GROUP_SIZE.value, _PROMPT_TOKENS.value, _TOKENS.value
  )


_MODELS = flags.DEFINE_list('models', list(MODELS), 'Sizes of Qwen2.5 models.')
_MODEL_PATH = flags.DEFINE_string(
  'model_path', None, 'A model directory or GGUF file, instead of --models.'
)
DTYPES_FLAG = flags.DEFINE_enum(
  'dtypes',
  'mixed',
  list(DTYPES),
  'Dtypes; mixed: float32 parameters, computation in bfloat16.',
)
LORA_RANK = flags.DEFINE_integer(
  'lora_rank', 0, 'Rank of adapters; 0: none.', lower_bound=0
)
GATHER_WEIGHTS = flags.DEFINE_bool(
  'gather_weights', False, 'As sampler.gather_weights.'
)
_QUESTIONS = flags.DEFINE_integer(
  'questions', PAPER.questions, 'Questions sampled together.', 1
)
_GROUP_SIZE = flags.DEFINE_integer(
  'group_size', PAPER.group_size, 'Answers per question.', 1
)
_PROMPT_TOKENS = flags.DEFINE_integer(
  'prompt_tokens', PAPER.prompt_tokens, 'Capacity for a prompt.', 1
)
_TOKENS = flags.DEFINE_integer(
  'tokens', PAPER.tokens, 'Capacity for an answer.', 1
)
FORMAT = flags.DEFINE_enum(
  'format', 'markdown', ('markdown', 'json'), 'Output format.'
)
