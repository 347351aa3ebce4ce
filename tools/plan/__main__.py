"""Compiles a step's programs for TPU slices and prints whether they fit.

  python -m tools.plan --models=7B --slices=v5e-16
  python -m tools.plan --models=7B --slices=v5p-8 --mesh=1,2,2
  python -m tools.plan --cache_dir=/tmp/plans

See README.md in this directory.
"""

import os

# Must be set before jax is imported: the host has no TPU, and other processes
# may use the TPU compiler at the same time.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['TPU_SKIP_MDS_QUERY'] = '1'
os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'

import importlib.metadata
import json
import math

from absl import app, flags

from sqlm_jax.models import decoder
from tools.plan import plan, programs, sizes, slices


def settings_of_flags(place: slices.Slice) -> programs.Settings:
  """Returns the settings that the flags define for a slice.

  Raises:
    ValueError: if a flag does not fit the slice or another flag.
  """
  workload = sizes.workload()
  if workload.questions % _UPDATES.value:
    raise ValueError(
      f'--updates={_UPDATES.value}: expected a divisor of '
      f'--questions={workload.questions}'
    )
  groups = workload.questions // _UPDATES.value
  mesh = slices.choose_mesh(place.chips, groups)
  if _MESH.value:
    mesh = tuple(int(x) if x.isdecimal() else 0 for x in _MESH.value)
    if len(mesh) != 3 or math.prod(mesh) != place.chips:
      raise ValueError(
        f'--mesh={",".join(_MESH.value)}: expected data,fsdp,tensor with a '
        f'product of {place.chips}, the chips of {place.name}'
      )
  microbatch = _MICROBATCH.value or max(mesh[0] * mesh[1], 8)
  if groups % min(microbatch, groups):
    raise ValueError(
      f'--groups_per_microbatch={microbatch}: expected a divisor of {groups}, '
      'the number of groups of an update'
    )
  return programs.Settings(
    mesh=mesh,
    dtypes=sizes.DTYPES_FLAG.value,
    remat=_REMAT.value,
    kernels=_KERNELS.value,
    lora_rank=sizes.LORA_RANK.value,
    updates=_UPDATES.value,
    groups_per_microbatch=min(microbatch, groups),
    max_rows=_MAX_ROWS.value,
    filled=_FILLED.value,
    gather_weights=sizes.GATHER_WEIGHTS.value,
    workload=workload,
  )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1:]}: expected flags only')
  try:
    places = [slices.find(name) for name in _SLICES.value]
    tasks = [
      (name, config, place, settings_of_flags(place))
      for name, config in sizes.models().items()
      for place in places
    ]
  except ValueError as error:
    raise app.UsageError(str(error)) from None
  try:
    versions = plan.versions()
  except importlib.metadata.PackageNotFoundError:
    raise app.UsageError(
      "libtpu: expected the TPU's compiler, pip install 'jax[tpu]'"
    ) from None
  rows = [plan.plan(*task, cache_dir=_CACHE_DIR.value) for task in tasks]
  if sizes.FORMAT.value == 'json':
    print('\n'.join(map(json.dumps, rows)))
    return
  print(', '.join(f'{name} {version}' for name, version in versions.items()))
  print(f'\nMemory of a chip in GiB:\n\n{plan.memory_table(rows)}')
  print(f'\nOne run of each program:\n\n{plan.time_table(rows)}')
  for row in rows:
    for name, measured in row['programs'].items():
      for parameter in measured.get('gathered', ()):
        print(f'\n{row["model"]} {row["slice"]} {name} gathers {parameter}')


_SLICES = flags.DEFINE_list('slices', list(slices.DEFAULT), 'TPU slices.')
_MESH = flags.DEFINE_list(
  'mesh', None, 'Devices on data,fsdp,tensor; chosen by default.'
)
_REMAT = flags.DEFINE_enum(
  'remat', 'dots', list(decoder.REMAT), 'As model.remat.'
)
_KERNELS = flags.DEFINE_bool('kernels', True, 'As model.kernels.')
_UPDATES = flags.DEFINE_integer('updates', 8, 'Updates of a step.', 1)
_MICROBATCH = flags.DEFINE_integer(
  'groups_per_microbatch',
  0,
  'As optimizer.groups_per_microbatch; 0: one per chip, at least 8.',
  0,
)
_MAX_ROWS = flags.DEFINE_integer(
  'max_rows', 0, 'As sampler.max_rows: responses decoded at once; 0: all.', 0
)
_FILLED = flags.DEFINE_float(
  'filled',
  1.0,
  'Mean length of the responses that the learner reads, as a fraction of '
  '--tokens.',
  0.01,
  1.0,
)
_CACHE_DIR = flags.DEFINE_string(
  'cache_dir', None, 'Directory that keeps the measurements of programs.'
)

flags.adopt_module_key_flags(sizes)

if __name__ == '__main__':
  app.run(main)
