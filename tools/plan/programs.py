"""Compiles the programs of a step for devices that are not present.

No arrays are created: parameters, training state, batch and cache are shapes
with shardings on the mesh of a topology.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from sqlm_jax.config import training_schema
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import (
  decoding,
  groups,
  kv_cache,
  learner,
  optimizer,
  policy_loss,
)
from sqlm_jax.engine import prefill as prefill_lib
from sqlm_jax.models import lora, model_config
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import packing as packing_lib
from sqlm_jax.selfplay import packing_plan
from tools.plan import hlo, memory, sizes

STOP_STATES = 16  # the smallest number of states of a stop table


class Settings(NamedTuple):
  """The training settings that affect memory and time."""

  mesh: tuple[int, int, int]  # devices on each of `sharding.AXES`
  dtypes: str = 'mixed'  # a key of `sizes.DTYPES`
  remat: str = 'dots'  # one of `decoder.REMAT`; the config's default
  kernels: bool = True  # compute attention with kernels, where available
  lora_rank: int = 0
  updates: int = 8  # minibatches of a step's groups
  groups_per_microbatch: int = 8
  max_rows: int = 0  # responses decoded at the same time; 0: all
  gather_weights: bool = False  # replicate the weights for sampling
  chunk: int = 32  # tokens between two checks for finished responses
  filled: float = 1.0  # fraction of the response positions that hold tokens
  workload: sizes.Workload = sizes.PAPER


class Program(NamedTuple):
  """A program to compile, and the other arrays on the devices meanwhile."""

  function: Callable[..., Any]  # jitted
  arguments: tuple[Any, ...]
  resident: tuple[Any, ...] = ()  # arrays that are not arguments
  unknown_trips: int = 1  # iterations of loops whose bound depends on data
  calls: int = 1  # number of calls in a step
  static: tuple[tuple[str, int], ...] = ()  # static arguments by name


class Trees(NamedTuple):
  """The arrays of a run as shapes with shardings."""

  state: learner.TrainState
  frozen: Any  # the reference policy, which adapters are joined with
  sampled: Any  # the sampler's parameters, in the compute dtype


def place(tree, shardings):
  """Returns the shapes of a tree with the given shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def trees(policy, adam, mesh, settings: Settings) -> Trees:
  """Returns the training state, frozen and sampled parameters of a run."""
  params = jax.eval_shape(policy.init, jax.random.key(0))
  trained = lora.adapters(params) if settings.lora_rank else params

  def cast_and_shard(tree):
    tree = jax.eval_shape(policy.cast, tree)
    return place(tree, sharding.shard_parameters(tree, mesh))

  state = jax.eval_shape(lambda p: learner.init_state(p, adam), trained)
  state = place(state, sharding.shard_like_parameters(state, trained, mesh))
  sampled = cast_and_shard(params)
  if settings.gather_weights:
    sampled = place(sampled, sharding.shard_gathered(sampled, mesh))
  return Trees(state, cast_and_shard(lora.base(params)), sampled)


def build(
  config: model_config.ModelConfig, mesh: jax.sharding.Mesh, settings: Settings
) -> dict[str, Program]:
  """Returns the programs that dominate memory and time, by name.

  The sampler's programs have their largest sizes: every response has the
  maximum length, and the cache is full.
  """
  policy = sizes.make_policy(
    config,
    dtypes=settings.dtypes,
    lora_rank=settings.lora_rank,
    remat=settings.remat,
    kernels=settings.kernels,
    mesh=mesh,
  )
  adam = optimizer.make_optimizer(training_schema.Optimizer())
  run = trees(policy, adam, mesh, settings)
  return {
    'update': _update(policy, adam, mesh, settings, run),
    **_sampler(policy, mesh, settings, run),
  }


def _update(policy, adam, mesh, settings, run: Trees) -> Program:
  w = settings.workload
  count = w.questions // settings.updates
  prompts = _prompts(count, w, mesh)
  rows = _rows(mesh, count)
  tokens_shape = (w.group_size, w.tokens)
  batch = groups.GroupBatch(
    prompts=prompts,
    tokens=rows(tokens_shape, np.int32),
    lengths=rows((w.group_size,), np.int32),
    old_logprobs=rows(tokens_shape, np.float32),
    advantages=rows((w.group_size, 1), np.float32),
    weights=rows((w.group_size,), np.float32),
    num_groups=_replicated(mesh)((), np.int32),
    packing=_packing(count, mesh, settings),
  )
  step = learner.make_train_step(
    policy,
    adam,
    mesh,
    policy_loss.LossSettings(kl_coef=0.001),
    groups_per_microbatch=settings.groups_per_microbatch,
  )
  base = run.frozen if settings.lora_rank else {}
  return Program(
    step,
    (run.state, batch, run.frozen, base),
    unknown_trips=max(count // settings.groups_per_microbatch, 1),
    calls=settings.updates,
  )


def _packing(count, mesh, settings) -> packing_lib.Packing | None:
  """Returns the packing of `count` groups with partially filled rows."""
  if settings.filled == 1:
    return None
  layout = packing_plan.Layout(
    settings.groups_per_microbatch, sharding.row_shards(mesh)
  )
  part_size = layout.part_size(count)
  rows = part_size * settings.workload.group_size
  width = settings.workload.tokens - 1
  of_parts = _rows(mesh, count // part_size)
  return packing_lib.Packing(
    of_parts((int(rows * width * settings.filled),), np.int32),
    of_parts((rows, width), np.int32),
  )


def _sampler(policy, mesh, settings, run: Trees) -> dict[str, Program]:
  w = settings.workload
  num_rows = w.questions * w.group_size
  at_once = min(settings.max_rows or num_rows, num_rows)
  width = min(settings.chunk, w.tokens)
  replicated = _replicated(mesh)
  keys_QG = jax.eval_shape(
    lambda: jax.random.split(jax.random.key(0), (w.questions, w.group_size))
  )
  keys_QG = replicated(keys_QG.shape, keys_QG.dtype)
  settings_G = decoding.SamplerSettings(
    replicated((w.group_size,), np.float32),
    replicated((w.group_size,), np.float32),
    replicated((), np.int32),
    replicated((STOP_STATES, policy.config.vocab_size), np.uint8),
  )
  progress = decoding.Progress(
    *(replicated((at_once,), dtype) for dtype in (np.int32, np.int32, np.uint8))
  )
  cache = functools.partial(_cache, policy, mesh)
  all_prompts = cache(w.questions, w.prompt_tokens)
  decoded_prompts = cache(at_once // w.group_size, w.prompt_tokens)
  before, recent = cache(at_once, w.tokens)[:2], cache(at_once, width)[:2]
  prefill = prefill_lib.make_prefill(policy, mesh, max_rows=settings.max_rows)
  decode = decoding.make_decode(policy, mesh)
  store = kv_cache.make_store(mesh, in_place=True)
  training = (run.state, None if settings.lora_rank else run.frozen)
  chunks = math.ceil(w.tokens / width) * math.ceil(num_rows / at_once)
  return {
    'prefill': Program(
      prefill,
      (run.sampled, _prompts(w.questions, w, mesh), keys_QG, settings_G),
      resident=training,
    ),
    'decode': Program(
      decode,
      (
        run.sampled,
        (decoded_prompts,),
        before,
        progress,
        replicated((at_once,), np.int32),
        keys_QG,
        settings_G,
      ),
      resident=(*training, all_prompts),
      unknown_trips=width,
      calls=chunks,
      static=(('width', width),),
    ),
    'store': Program(
      store,
      (before, recent, replicated((at_once,), np.int32), None),
      resident=(*training, all_prompts, decoded_prompts, run.sampled),
      calls=chunks,
      static=(('slots', w.tokens),),
    ),
  }


def _replicated(mesh):
  """Returns a function `(shape, dtype)` that makes a replicated array."""
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return lambda shape, dtype: jax.ShapeDtypeStruct(
    shape, dtype, sharding=everywhere
  )


def _rows(mesh, count: int):
  """Returns a function `(shape, dtype)` that makes an array [count, *shape].

  Its rows are sharded as by `transfers.put_rows`.
  """
  split = sharding.rows_spec(count, mesh)
  return lambda shape, dtype: jax.ShapeDtypeStruct(
    (count, *shape), dtype, sharding=split
  )


def _prompts(count: int, workload: sizes.Workload, mesh) -> groups.Prompts:
  rows = _rows(mesh, count)
  return groups.Prompts(
    prefix_tokens=_rows(mesh, 1)((0,), np.int32),
    prefix_lengths=_rows(mesh, 1)((), np.int32),
    tokens=rows((workload.prompt_tokens,), np.int32),
    lengths=rows((), np.int32),
  )


def _cache(policy, mesh, rows: int, slots: int) -> policy_lib.KeyValues:
  empty = jax.eval_shape(lambda: policy.init_cache(rows, slots))
  split = sharding.cache_sharding(empty.keys.shape, mesh)
  lengths = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return place(empty, policy_lib.KeyValues(split, split, lengths))


def arrays(program: Program) -> int:
  """Returns the bytes of arguments and resident arrays on a device."""
  return _size((program.arguments, program.resident))


def measure(program: Program) -> dict[str, Any]:
  """Compiles a program and returns its memory and work on a device.

  Returns:
    Sizes in bytes: `arguments`, `outputs` that do not alias arguments,
    `temporaries`, `code`, `resident`, the arrays that are not arguments, and
    their sum, `total`. In addition, `flops`, `cycles`, `calls`, `collectives`,
    and `gathered`, the parameters of which all layers are gathered at once. If
    the compiler ran out of memory, there are only `arguments`, `resident` and
    `total`, which includes the memory that the compiler asked for.
  """
  resident, arguments = _size(program.resident), _size(program.arguments)
  lowered = program.function.lower(*program.arguments, **dict(program.static))
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    needed = out_of_memory(str(error))
    if needed is None:
      raise
    return {
      'arguments': arguments,
      'resident': resident,
      'total': max(needed, arguments) + resident,
    }
  used = compiled.memory_analysis()
  byte_counts = {
    'arguments': used.argument_size_in_bytes,
    'outputs': used.output_size_in_bytes - used.alias_size_in_bytes,
    'temporaries': used.temp_size_in_bytes,
    'code': used.generated_code_size_in_bytes,
    'resident': resident,
  }
  text = compiled.as_text()
  runs = list(hlo.walk(text, unknown_trips=program.unknown_trips))
  return byte_counts | {
    'total': sum(byte_counts.values()),
    'flops': hlo.flops(runs),
    'cycles': hlo.cycles(runs),
    'calls': program.calls,
    'collectives': {k: v._asdict() for k, v in hlo.moved(runs).items()},
    'gathered': hlo.gathered_stacks(text, stacked(program.arguments)),
  }


def stacked(arguments) -> list[tuple[int, ...]]:
  """Returns the shapes of matrices in `arguments` that are stacked by layer."""
  return sorted(
    {
      x.shape
      for path, x in jax.tree_util.tree_leaves_with_path(arguments)
      if 'layers' in jax.tree_util.keystr(path)
      and len(x.shape) > 2
      and 'bias' not in jax.tree_util.keystr(path)
    }
  )


def _size(tree) -> int:
  shardings = jax.tree.map(lambda x: x.sharding, tree)
  return memory.bytes_per_device(tree, shardings)


def out_of_memory(message: str) -> int | None:
  """Returns the bytes that the compiler could not get.

  Returns None if the message is about another error.
  """
  if 'RESOURCE_EXHAUSTED' not in message:
    return None
  units = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
  amounts = re.findall(r'(?:\(|Used )([\d.]+)([KMGT])', message)
  return max(
    (int(float(number) * units[unit]) for number, unit in amounts), default=None
  )
