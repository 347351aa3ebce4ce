"""How big is it: memory a device needs to train a model, before it is bought.

  python -m launch.memory
  python -m launch.memory --models=7B --devices=8,16 --lora_rank=16
  python -m launch.memory --model_path=/models/mine --devices=1

Counts parameters, gradients, optimizer, reference policy, the sampler's copy in
its dtype, the key/value cache, with --gpus the room that this has there and the
layers laid out once more to decode with, from the shapes of the program that
would run and from its own table of shardings. No device is needed. Activations
and the compiler's temporaries are not counted, nor is PPO's critic (parameters,
gradients and optimizer once more) or an earlier solver that votes (parameters).
"""

import json
import math

import jax
from absl import app, flags

from launch import sizes
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import optimizer, schedule
from sqlm_jax.models import config as model_config
from sqlm_jax.models import kernels, lora
from sqlm_jax.models import policy as policy_lib


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
  gather_weights: bool = False,
  sampler_dtype: str = '',
  gpus: bool = False,
  workload: sizes.Workload = sizes.PAPER,
  chunk: int = 32,
) -> dict[str, int]:
  """Bytes a device needs, by what they hold.

  Args:
    config: sizes of the model.
    mesh: its axes' sizes; devices are not needed.
    dtypes: a key of `sizes.DTYPES`.
    lora_rank: of adapters that are trained instead, 0 trains all weights.
    gather_weights: as `sampler.gather_weights`.
    sampler_dtype: as `sampler.dtype`.
    gpus: of NVIDIA, for which layers are laid out once more to decode with, and
      caches come in few sizes.
    workload: what is sampled at the same time.
    chunk: as `sampler.chunk`.
  """
  stored, computed = sizes.DTYPES[dtypes]
  policy = sizes.make_policy(config, dtypes=dtypes, lora_rank=lora_rank)
  whole = jax.eval_shape(policy.init, jax.random.key(0))
  placed = lambda tree: bytes_per_device(
    tree, sharding.shard_parameters(tree, mesh)
  )
  cast = lambda tree: jax.eval_shape(policy.cast, tree)
  sampled_in = sampler_dtype or computed
  sampler = policy_lib.make_policy(config, dtype=sampled_in)
  sampled = jax.eval_shape(sampler.cast, whole)
  place_sampled = (
    sharding.shard_gathered if gather_weights else sharding.shard_parameters
  )
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
  copied = sampled  # or what of it is not there already
  if sampled_in == computed and not gather_weights:
    copied = cast(trained) if stored != computed else {}
  elif sampled_in == stored and not (gather_weights or lora_rank):
    copied = {}
  apart, of_prompt, of_answer = {}, workload.prompt_tokens, workload.tokens
  if gpus and kernels.known(config, sampled_in, 'gpu'):
    apart = {'layers': sampled['layers']}
    # As the sampler has it, where what is not live is not read.
    of_prompt = schedule.FEW.room(of_prompt, chunk)
    of_answer = schedule.FEW.room(of_answer, chunk, most=of_answer)
  sampling = lambda tree: bytes_per_device(tree, place_sampled(tree, mesh))
  found = {
    'parameters': placed(trained) + frozen,
    # The running sum and one microbatch's, see `engine.learner`.
    'gradients': 2 * placed(trained),
    'optimizer': moment_bytes,
    # Adapters' reference is the base itself.
    'reference': 0 if lora_rank else placed(cast(base)),
    'sampler copy': sampling(copied),
    'layers apart': sampling(apart),
    'cache': _cache(
      sampler,
      mesh,
      (workload.questions, of_prompt),
      (workload.questions * workload.group_size, of_answer),
    ),
  }
  return found | {'total': sum(found.values())}


def _cache(policy, mesh, *segments: tuple[int, int]) -> int:
  """Keys and values of segments, so many rows with so many slots each."""
  total = 0
  for rows, slots in segments:
    segment = jax.eval_shape(lambda r=rows, s=slots: policy.init_cache(r, s))
    for array in (segment.keys, segment.values):
      split = sharding.rows_spec(rows, mesh, axis=1)
      total += bytes_per_device(array, split)
  return total


def table(rows: list[dict]) -> str:
  """Markdown, in GiB."""
  left_out = {'model', 'devices'}
  if not any(row['layers apart'] for row in rows):
    left_out.add('layers apart')
  names = [name for name in rows[0] if name not in left_out]
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
    f'{trained}; parameters {stored}, computed in {computed}; '
    f'{workload.questions} questions x {workload.group_size} answers, '
    f'{workload.prompt_tokens} + {workload.tokens} tokens; GiB a device, '
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
  'Of NVIDIA, from JAX 0.11 on: layers are laid out once more to decode with.',
)
_TENSOR = flags.DEFINE_integer('tensor', 1, 'Devices on the tensor axis.')

if __name__ == '__main__':
  app.run(main)
