"""Estimates the memory that each device needs to train a model.

  python -m tools.plan.memory
  python -m tools.plan.memory --models=7B --devices=8,16 --lora_rank=16
  python -m tools.plan.memory --model_path=/models/mine --devices=1

Counts parameters, gradients, optimizer state, reference policy, the sampler's
copy in its dtype and the key/value cache. With --gpus, the cache has the
capacity that it has on GPUs, and the copy of the layers in the layout for
decoding is counted. The sizes follow from the shapes and the shardings of the
program that would run. No device is needed. Activations and the compiler's
temporaries are not counted. PPO's critic (another set of parameters, gradients
and optimizer state) and an earlier solver that votes (another set of
parameters) are not counted either.
"""

import json
import math

import jax
from absl import app, flags

from sqlm_jax.config import training_schema
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import optimizer, row_scheduler
from sqlm_jax.models import kernels, lora, model_config
from sqlm_jax.models import policy as policy_lib
from tools.plan import sizes


def bytes_per_device(tree, shardings) -> int:
  """Returns the bytes that a sharded tree takes on one device."""
  shard_bytes = jax.tree.map(
    lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize,
    tree,
    shardings,
  )
  return sum(jax.tree.leaves(shard_bytes))


def account(
  config: model_config.ModelConfig,
  mesh: jax.sharding.AbstractMesh,
  *,
  dtypes: str,
  lora_rank: int = 0,
  gather_weights: bool = False,
  sampler_dtype: str = '',
  gpus: bool = False,
  workload: sizes.Workload = sizes.PAPER,
  chunk: int = 32,
) -> dict[str, int]:
  """Returns the bytes that a device needs, by their purpose.

  Args:
    config: the model's config.
    mesh: a mesh without devices.
    dtypes: a key of `sizes.DTYPES`.
    lora_rank: the rank of the trained adapters; 0 trains all weights.
    gather_weights: as `sampler.gather_weights`.
    sampler_dtype: as `sampler.dtype`.
    gpus: True for NVIDIA GPUs, on which the layers are copied to another layout
      for decoding, and caches have few different capacities.
    workload: the number and the length of sequences that are sampled at once.
    chunk: as `sampler.chunk`.
  """
  stored, computed = sizes.DTYPES[dtypes]
  policy = sizes.make_policy(config, dtypes=dtypes, lora_rank=lora_rank)
  params = jax.eval_shape(policy.init, jax.random.key(0))

  def training_bytes(tree):
    return bytes_per_device(tree, sharding.shard_parameters(tree, mesh))

  def cast(tree):
    return jax.eval_shape(policy.cast, tree)

  sampled_in = sampler_dtype or computed
  sampler = policy_lib.make_policy(config, dtype=sampled_in)
  sampled = jax.eval_shape(sampler.cast, params)
  shard_sampled = (
    sharding.shard_gathered if gather_weights else sharding.shard_parameters
  )

  def sampling_bytes(tree):
    return bytes_per_device(tree, shard_sampled(tree, mesh))

  base = lora.base(params)
  trained = lora.adapters(params) if lora_rank else params
  # Only trained parameters are kept in the parameters' dtype.
  frozen = training_bytes(cast(base)) if lora_rank else 0
  copied = sampled  # reduced below to arrays that do not already exist
  if sampled_in == computed and not gather_weights:
    copied = cast(trained) if stored != computed else {}
  elif sampled_in == stored and not (gather_weights or lora_rank):
    copied = {}
  decoding_layers = {}
  prompt_slots, response_slots = workload.prompt_tokens, workload.tokens
  if gpus and kernels.known(config, sampled_in, 'gpu'):
    decoding_layers = {'layers': sampled['layers']}
    # The sampler's choice of capacity where unused cache slots are not read.
    prompt_slots = row_scheduler.COARSE.capacity(prompt_slots, chunk)
    response_slots = row_scheduler.COARSE.capacity(
      response_slots, chunk, max_start=response_slots
    )
  bytes_by_purpose = {
    'parameters': training_bytes(trained) + frozen,
    # The running sum and one microbatch's gradients, see `engine.learner`.
    'gradients': 2 * training_bytes(trained),
    'optimizer': _optimizer_bytes(trained, mesh),
    # With adapters, the base model is the reference policy.
    'reference': 0 if lora_rank else training_bytes(cast(base)),
    'sampler copy': sampling_bytes(copied),
    'decoding layers': sampling_bytes(decoding_layers),
    'cache': _cache_bytes(
      sampler,
      mesh,
      (workload.questions, prompt_slots),
      (workload.questions * workload.group_size, response_slots),
    ),
  }
  return bytes_by_purpose | {'total': sum(bytes_by_purpose.values())}


def _optimizer_bytes(trained, mesh) -> int:
  """Returns the bytes of AdamW's state for the trained parameters."""
  adam = optimizer.make_optimizer(training_schema.Optimizer())
  state = jax.eval_shape(adam.init, trained)
  return bytes_per_device(
    state, sharding.shard_like_parameters(state, trained, mesh)
  )


def _cache_bytes(policy, mesh, *segments: tuple[int, int]) -> int:
  """Returns the bytes of keys and values of segments (rows, slots per row)."""
  total = 0
  for rows, slots in segments:
    segment = jax.eval_shape(lambda r=rows, s=slots: policy.init_cache(r, s))
    for array in (segment.keys, segment.values):
      split = sharding.rows_spec(rows, mesh, axis=1)
      total += bytes_per_device(array, split)
  return total


def table(rows: list[dict]) -> str:
  """Formats the estimates as a Markdown table in GiB."""
  left_out = {'model', 'devices'}
  if not any(row['decoding layers'] for row in rows):
    left_out.add('decoding layers')
  names = [name for name in rows[0] if name not in left_out]
  lines = ['| model | devices | ' + ' | '.join(names) + ' |']
  lines.append('|---' * (len(names) + 2) + '|')
  for row in rows:
    cells = [row['model'], str(row['devices'])]
    cells += [f'{row[name] / 2**30:.2f}' for name in names]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _mesh(devices: int) -> jax.sharding.AbstractMesh:
  """Returns a mesh with --tensor devices on `tensor` and the rest on `fsdp`."""
  tensor = _TENSOR.value
  if devices < 1 or tensor < 1 or devices % tensor:
    raise ValueError(
      f'--devices={devices}: expected a positive multiple of --tensor={tensor}'
    )
  return jax.sharding.AbstractMesh(
    (1, devices // tensor, tensor), sharding.AXES
  )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1:]}: expected flags only')
  workload, rank = sizes.workload(), sizes.LORA_RANK.value
  dtypes = sizes.DTYPES_FLAG.value
  try:
    rows = [
      {'model': name, 'devices': devices}
      | account(
        config,
        _mesh(devices),
        dtypes=dtypes,
        lora_rank=rank,
        gather_weights=sizes.GATHER_WEIGHTS.value,
        sampler_dtype=_SAMPLER_DTYPE.value,
        gpus=_GPUS.value,
        workload=workload,
      )
      for name, config in sizes.models().items()
      for devices in map(int, _DEVICES.value)
    ]
  except ValueError as error:
    raise app.UsageError(str(error)) from None
  if sizes.FORMAT.value == 'json':
    print('\n'.join(map(json.dumps, rows)))
    return
  stored, computed = sizes.DTYPES[dtypes]
  trained = f'LoRA, rank {rank}' if rank else 'AdamW'
  print(
    f'{trained}; parameters in {stored}, computation in {computed}; '
    f'{workload.questions} questions x {workload.group_size} answers, '
    f'{workload.prompt_tokens} + {workload.tokens} tokens; GiB per device, '
    'activations not counted\n'
  )
  print(table(rows))


_DEVICES = flags.DEFINE_list('devices', ['1', '8', '64'], 'Numbers of devices.')
_SAMPLER_DTYPE = flags.DEFINE_enum(
  'sampler_dtype', '', ('', 'bfloat16', 'float32'), 'As sampler.dtype.'
)
_GPUS = flags.DEFINE_bool(
  'gpus',
  False,
  'Count the copy of the layers for decoding on NVIDIA GPUs (from jax 0.11).',
)
_TENSOR = flags.DEFINE_integer('tensor', 1, 'Devices on the tensor axis.')

flags.adopt_module_key_flags(sizes)

if __name__ == '__main__':
  app.run(main)
