"""Plans for eight virtual devices and an invented chip."""

import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from sqlm_jax.distributed import sharding
from sqlm_jax.models import model_config
from tools.plan import plan, programs, sizes, slices, suggestions

ROOT = pathlib.Path(__file__).parents[3]
# No two of its matrices have the same number of elements.
CONFIG = model_config.ModelConfig(
  vocab_size=1024,
  num_layers=3,
  width=64,
  mlp_width=160,
  num_heads=4,
  num_kv_heads=2,
  head_width=16,
)
SETTINGS = programs.Settings(
  mesh=(1, 8, 1),
  updates=2,
  groups_per_microbatch=8,
  workload=sizes.Workload(16, 4, 16, 128),
)


def chip(hbm):
  return slices.Slice('eight', '8', 8, slices.Chip(hbm, 1e12, 1e9, 1e9))


@pytest.fixture(scope='module')
def make_plan(tmp_path_factory):
  """Returns a function that plans on the CPU and keeps the measurements."""
  cache = tmp_path_factory.mktemp('plans')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(plan, 'versions', lambda: {'jax': jax.__version__})
    patch.setattr(
      plan,
      '_mesh',
      lambda place, shape: sharding.make_mesh(
        dict(zip(sharding.AXES, shape, strict=True))
      ),
    )
    yield lambda hbm: plan.plan('tiny', CONFIG, chip(hbm), SETTINGS, cache)


@pytest.fixture(scope='module')
def row(make_plan):
  return make_plan(2**40)


def test_memory_is_the_sum_of_its_parts(row):
  assert row['fits']
  assert row['try'] is None
  for measured in row['programs'].values():
    parts = ['arguments', 'outputs', 'temporaries', 'code', 'resident']
    assert measured['total'] == sum(measured[part] for part in parts)
  # Parameters and both moments in float32. A device has an eighth of each array
  # except the 7 norms [64]. The reference policy is in bfloat16, except norms.
  count = 1024 * 64 + 3 * (64 * (4 + 2 * 2) * 16 + 4 * 16 * 64 + 3 * 64 * 160)
  norms = 7 * 64
  state = 3 * 4 * (count // 8 + norms) + 2 * count // 8 + 4 * norms
  found = row['programs']['update']['arguments']
  assert state < found < state + 40_000  # the batch: one group per device
  assert row['programs']['update']['resident'] == 0
  # The training state stays in memory while the sampler runs.
  assert row['programs']['prefill']['resident'] == pytest.approx(state, abs=99)


def test_products_are_divided_among_all_devices(row):
  """A device computes an eighth of 2 FLOPs per parameter and token."""
  layers = 3 * (64 * (4 + 2 * 2) * 16 + 4 * 16 * 64 + 3 * 64 * 160)
  tokens = 16 * 16 // 8
  products = 2 * tokens * layers
  scores = 3 * 2 * 2 * tokens * 16 * 4 * 16  # with keys, then with values
  logits = 2 * (16 // 8) * 1024 * 64
  found = row['programs']['prefill']['flops']
  assert products + scores <= found <= products + scores + 8 * logits


def test_layers_are_never_gathered_all_at_once(row):
  gathered = [measured['gathered'] for measured in row['programs'].values()]
  assert gathered == [[]] * 4


def test_the_update_moves_parameters_and_not_activations(row):
  """Without constraints, the compiler moved several hundred times as much."""
  params = 4 * (1024 * 64 + 3 * (64 * 8 * 16 + 4 * 16 * 64 + 3 * 64 * 160))
  moved = row['programs']['update']['collectives']
  # Parameters are gathered for prompts and responses, in the forward pass, its
  # recomputation and the backward pass, by policy and reference, and gradients
  # are reduced.
  assert params < sum(x['bytes'] for x in moved.values()) < 25 * params


def test_an_update_with_shorter_responses(row):
  """It has fewer FLOPs and moves no more than one with full responses."""
  mesh = sharding.make_mesh(
    dict(zip(sharding.AXES, SETTINGS.mesh, strict=True))
  )
  half = programs.build(CONFIG, mesh, SETTINGS._replace(filled=0.5))
  found, full = programs.measure(half['update']), row['programs']['update']
  # More than half: attention is computed by rows, and prompts are unchanged.
  assert found['flops'] < 0.65 * full['flops']
  assert found['collectives'].keys() == full['collectives'].keys()
  for kind, moved in found['collectives'].items():
    assert moved['bytes'] <= full['collectives'][kind]['bytes'], kind


def test_kept_measurements_are_reused(make_plan, row, capfd):
  again = make_plan(2**40)
  assert json.loads(json.dumps(again)) == json.loads(json.dumps(row))
  assert 'compiling' not in capfd.readouterr().err


def test_a_program_whose_arrays_do_not_fit_is_not_compiled(make_plan):
  found = make_plan(1000)
  assert not found['fits']
  assert found['programs'] == {
    'update': {'total': found['needed'], 'arrays_alone': True}
  }
  assert found['try'] is None
  assert (
    plan.memory_table([found])
    .splitlines()[-1]
    .endswith('does not fit; try a larger slice |')
  )


def test_tables_have_a_row_for_each_plan(row):
  row = row | {'slice': 'v5e-8'}
  memory = plan.memory_table([row, row]).splitlines()
  assert len(memory) == 2 + 2
  assert {line.count('|') for line in memory} == {11}
  assert memory[-1].startswith('| tiny | v5e-8 | 1x8x1 | 0.0 |')
  times = plan.time_table([row]).splitlines()
  assert [line.split('|')[3].strip() for line in times[2:]] == [
    'update',
    'decode',
  ]
  assert {line.count('|') for line in times} == {9}


def test_stacked_biases_are_not_matrices():
  kernel, bias = np.zeros((3, 4, 2, 8)), np.zeros((3, 2, 8))
  tree = {'layers': {'query': {'kernel': kernel, 'bias': bias}}}
  assert programs.stacked(tree) == [kernel.shape]


def tried(settings, worst):
  """Yields overrides and settings of all tries; `worst` stays the largest."""
  keys = {}
  while step := suggestions.next_try(settings, worst):
    changes, settings = step
    keys |= changes
    yield {k: v for k, v in keys.items() if v is not None}, settings


def test_tries_are_cumulative_and_cheapest_first():
  big = SETTINGS._replace(mesh=(1, 4, 1), workload=sizes.PAPER)
  remat = {'model.remat': 'full'}
  micro = remat | {'optimizer.groups_per_microbatch': '4'}
  assert [keys for keys, _ in tried(big, 'update')] == [
    remat,
    micro,
    micro | {'model.param_dtype': 'bfloat16'},
    micro | {'model.lora.rank': '16'},
  ]
  (_, first), *_, (keys, last) = tried(big, 'decode')
  assert (first.max_rows, first.dtypes) == (1024 // 4, 'mixed')
  # At least one group per chip.
  assert keys == {'sampler.max_rows': '16', 'model.lora.rank': '16'}
  assert (last.dtypes, last.remat) == ('mixed', 'dots')


def test_both_update_and_sampler_are_made_to_fit(monkeypatch):
  """After the update fits, the sampler's programs may still be too large."""

  def measured(name, config, place, settings, cache_dir):
    update = 30 if settings.remat == 'dots' else 10
    decode = 40 if settings.max_rows == 0 else 15
    found = {'update': {'total': update}, 'decode': {'total': decode}}
    return {'update': found['update']} if update > 20 else found

  monkeypatch.setattr(plan, '_measure_all', measured)
  row = plan.plan('tiny', CONFIG, chip(20), SETTINGS)
  assert row['fits'] is False
  assert row['worst'] == 'update'
  assert row['try'] == 'model.remat=full sampler.max_rows=32'
  assert plan.plan('tiny', CONFIG, chip(40), SETTINGS)['try'] is None


# Google names v5p slices by TensorCores, two per chip, and others by chips.
@pytest.mark.parametrize(
  'name, chips',
  [('v5e-4', 4), ('v5e-256', 256), ('v5p-128', 64), ('v6e-64', 64)],
)
def test_number_of_chips_follows_from_the_name(name, chips):
  assert slices.find(name).chips == chips


@pytest.mark.parametrize(
  'chips, groups, mesh',
  [
    (4, 32, (1, 4, 1)),
    (256, 32, (1, 32, 8)),
    (64, 48, (1, 16, 4)),
    (8, 1, (1, 1, 8)),
  ],
)
def test_the_chosen_mesh_gives_every_chip_groups(chips, groups, mesh):
  assert slices.choose_mesh(chips, groups) == mesh
  assert math.prod(mesh) == chips


@pytest.mark.parametrize(
  'message, needed',
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory '
      'required for HLO temporaries (120.00G) exceeds available HBM (15.75G).',
      120 * 2**30,
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.50G '
      'of 15.75G hbm. Exceeded hbm capacity by 1.75G.',
      int(17.5 * 2**30),
    ),
    ('INTERNAL: a bug (3.00G)', None),
  ],
)
def test_memory_in_out_of_memory_messages(message, needed):
  assert programs.out_of_memory(message) == needed


@pytest.mark.parametrize(
  'words, message',
  [
    (('--slices=v9-4',), '--slices=v9-4: expected some of v5e-4'),
    (('--models=9B',), '--models=9B: expected some of 0.5B'),
    (('--slices=v5e-4', '--mesh=2,4,1'), '--mesh=2,4,1: expected data,fsdp,te'),
    (('--mesh=all',), '--mesh=all: expected data,fsdp,tensor with a product'),
    (('--updates=7',), '--updates=7: expected a divisor of --questions=256'),
    (
      ('--groups_per_microbatch=5',),
      '--groups_per_microbatch=5: expected a divisor of 32',
    ),
    (('--dtypes=int4',), 'int4'),
  ],
)
def test_errors_name_the_flag(words, message):
  process = subprocess.run(
    [sys.executable, '-m', 'tools.plan', *words],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert process.returncode
  assert message in process.stdout + process.stderr
  assert 'Traceback' not in process.stderr
