"""How big is it: memory a device needs to train a model, before it is bought.

  python -m launch.memory
  python -m launch.memory --models=7B --devices=8,16 --lora_rank=16
  python -m launch.memory --model_path=/models/mine --devices=1

Counts parameters, gradients, optimizer, reference policy, the sampler's copy in
the compute dtype, and the key/value cache, from the shapes of the program that
would run and from its own table of shardings. No device is needed. Activations
and the compiler's temporaries are not counted, nor is PPO's critic (parameters,
gradients and optimizer once more) or an earlier solver that votes (parameters).
"""

import json
import math
import pathlib
from typing import NamedTuple

import jax
from absl import app, flags

from sqlm_jax import sharding
from sqlm_jax.engine import optimizer
from sqlm_jax.models import config as model_config
from sqlm_jax.models import layers, lora
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.weights import loader

DTYPES = {
  # parameters are stored in, computed in
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
  """What is sampled at the same time; the defaults are the paper's."""

  questions: int = 256
  group_size: int = 4
  prompt_tokens: int = 512
  tokens: int = 1024


PAPER = Workload()


def bytes_per_device(tree, shardings) -> int:
  """Bytes of a tree's largest shards."""
  sizes = jax.tree.map(
    lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize,
    tree,
    shardings,
  )
  return sum(jax.tree.leaves(sizes))


def account(
  config: model_config.ModelConfig,
  mesh: jax.sharding.AbstractMesh,
  *,
  dtypes: str,
  lora_rank: int = 0,
  workload: Workload = PAPER,
) -> dict[str, int]:
  """Bytes a device needs, by what they hold.

  Args:
    config: sizes of the model.
    mesh: its axes' sizes; devices are not needed.
    dtypes: a key of `DTYPES`.
    lora_rank: of adapters that are trained instead, 0 trains all weights.
    workload: what is sampled at the same time.
  """
  stored, computed = DTYPES[dtypes]
  adapter = layers.Lora(lora_rank, 1.0) if lora_rank else None
  policy = policy_lib.make_policy(
    config, dtype=computed, param_dtype=stored, lora=adapter
  )
  whole = jax.eval_shape(policy.init, jax.random.key(0))
  placed = lambda tree: bytes_per_device(
    tree, sharding.shard_parameters(tree, mesh)
  )
  cast = lambda tree: jax.eval_shape(policy.cast, tree)
  base, trained = lora.base(whole), whole
  if lora_rank:
    trained = lora.adapters(whole)
  moments = jax.eval_shape(
    optimizer.make_optimizer(learning_rate=1e-6).init, trained
  )
  moment_bytes = bytes_per_device(
    moments, sharding.shard_like_parameters(moments, trained, mesh)
  )
  # Only what is trained is kept in the dtype of parameters.
  frozen = placed(cast(base)) if lora_rank else 0
  found = {
    'parameters': placed(trained) + frozen,
    # The running sum and one microbatch's, see `engine.learner`.
    'gradients': 2 * placed(trained),
    'optimizer': moment_bytes,
    # Adapters' reference is the base itself.
    'reference': 0 if lora_rank else placed(cast(base)),
    'sampler copy': placed(cast(trained)) if stored != computed else 0,
    'cache': _cache(policy, mesh, workload),
  }
  return found | {'total': sum(found.values())}


def _cache(policy, mesh, workload: Workload) -> int:
  """Keys and values of the prompts, one a question, and of the answers."""
  total = 0
  for rows, slots in (
    (workload.questions, workload.prompt_tokens),
    (workload.questions * workload.group_size, workload.tokens),
  ):
    segment = jax.eval_shape(lambda r=rows, s=slots: policy.init_cache(r, s))
    for array in (segment.keys, segment.values):
      split = sharding.rows_spec(rows, mesh, axis=1)
      total += bytes_per_device(array, split)
  return total


def table(rows: list[dict]) -> str:
  """Markdown, in GiB."""
  names = [name for name in rows[0] if name not in ('model', 'devices')]
  lines = ['| model | devices | ' + ' | '.join(names) + ' |']
  lines.append('|---' * (len(names) + 2) + '|')
  for row in rows:
    cells = [row['model'], str(row['devices'])]
    cells += [f'{row[name] / 2**30:.2f}' for name in names]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _mesh(devices: int) -> jax.sharding.AbstractMesh:
  """All devices on the axis that splits parameters, but for --tensor."""
  tensor = _TENSOR.value
  if devices < 1 or tensor < 1 or devices % tensor:
    raise ValueError(
      f'--devices={devices}: expected a positive multiple of --tensor={tensor}'
    )
  return jax.sharding.AbstractMesh(
    (1, devices // tensor, tensor), sharding.AXES
  )


def _models() -> dict[str, model_config.ModelConfig]:
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


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1:]}: expected flags only')
  workload = Workload(
    _QUESTIONS.value, _GROUP_SIZE.value, _PROMPT_TOKENS.value, _TOKENS.value
  )
  try:
    rows = [
      {'model': name, 'devices': devices}
      | account(
        config,
        _mesh(devices),
        dtypes=_DTYPES.value,
        lora_rank=_LORA_RANK.value,
        workload=workload,
      )
      for name, config in _models().items()
      for devices in map(int, _DEVICES.value)
    ]
  except ValueError as error:
    raise app.UsageError(str(error)) from None
  if _FORMAT.value == 'json':
    print('\n'.join(map(json.dumps, rows)))
    return
  stored, computed = DTYPES[_DTYPES.value]
  trained = f'LoRA, rank {_LORA_RANK.value}' if _LORA_RANK.value else 'AdamW'
  print(
    f'{trained}; parameters {stored}, computed in {computed}; '
    f'{workload.questions} questions x {workload.group_size} answers, '
    f'{workload.prompt_tokens} + {workload.tokens} tokens; GiB a device, '
    'activations not counted\n'
  )
  print(table(rows))


_MODELS = flags.DEFINE_list('models', list(MODELS), 'Sizes of Qwen2.5.')
_MODEL_PATH = flags.DEFINE_string('model_path', None, 'A model of your own.')
_DEVICES = flags.DEFINE_list('devices', ['1', '8', '64'], 'Numbers of devices.')
_TENSOR = flags.DEFINE_integer('tensor', 1, 'Devices on the tensor axis.')
_DTYPES = flags.DEFINE_enum('dtypes', 'mixed', list(DTYPES), 'Of the weights.')
_LORA_RANK = flags.DEFINE_integer('lora_rank', 0, 'Of adapters.', lower_bound=0)
_QUESTIONS = flags.DEFINE_integer(
  'questions', PAPER.questions, 'Questions at the same time.', 1
)
_GROUP_SIZE = flags.DEFINE_integer(
  'group_size', PAPER.group_size, 'Answers a question.', 1
)
_PROMPT_TOKENS = flags.DEFINE_integer(
  'prompt_tokens', PAPER.prompt_tokens, 'Room for a prompt.', 1
)
_TOKENS = flags.DEFINE_integer('tokens', PAPER.tokens, 'Room for an answer.', 1)
_FORMAT = flags.DEFINE_enum(
  'format', 'markdown', ('markdown', 'json'), 'Of the table.'
)

if __name__ == '__main__':
  app.run(main)
