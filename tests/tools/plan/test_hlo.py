"""The HLO analysis equals numbers that are worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sqlm_jax.distributed import sharding
from tools.plan import hlo

# Shortened output of the TPU compiler (libtpu 0.0.42): a loop of 24 iterations
# with the attention scores of 2 rows, 512 slots, and 2 key heads of width 64
# with 7 query heads each, and with one asynchronous gather in three fusions.
TPU = """\
HloModule jit_update, is_scheduled=true

%start (param_0: s32[32,256]) -> (s32[32,256], s32[128,256], u32[]) {
  %param_0 = s32[32,256]{1,0:T(8,128)} parameter(0)
  %all-gather.1 = s32[128,256]{1,0:T(8,128)} all-gather(%param_0), \
channel_id=51, dimensions={0}
  ROOT %custom-call.1 = (s32[32,256]{1,0:T(8,128)}, s32[128,256]{1,0:T(8,128)\
S(1)}, /*index=2*/u32[]{:S(2)}) custom-call(%all-gather.1), \
custom_call_target="AsyncCollectiveStart"
}

%meanwhile (param_1: s32[32,256], left: bf16[2,512,2,64,1], right: \
bf16[2,512,2,7,64]) -> f32[2,2,512,512,7] {
  %param_1 = s32[32,256]{1,0:T(8,128)} parameter(0)
  %left = bf16[2,512,2,64,1]{1,3,4,2,0:T(8,128)(2,1)} parameter(1)
  %right = bf16[2,512,2,7,64]{1,4,3,2,0:T(8,128)(2,1)} parameter(2)
  %all-gather.2 = s32[128,256]{1,0:T(8,128)S(1)} all-gather(%param_1), \
channel_id=51, dimensions={0}
  ROOT %convolution.1 = f32[2,2,512,512,7]{3,2,4,1,0:T(8,128)} convolution(\
%left, %right), window={size=2x2x7 pad=0_0x0_0x6_6 lhs_dilate=2x2x1 \
rhs_reversal=0x0x1}, dim_labels=0b1f2_0o12i->01bf2
}

%body (state: (s32[], s32[32,256])) -> (s32[], s32[32,256]) {
  %state = (s32[]{:T(128)}, s32[32,256]{1,0}) parameter(0)
  %rows = s32[32,256]{1,0} get-tuple-element(%state), index=1
  %first = (s32[32,256]{1,0}, s32[128,256]{1,0}, u32[]{:S(2)}) fusion(%rows), \
kind=kCustom, calls=%start
  %scores = f32[2,2,512,512,7]{3,2,4,1,0} fusion(%rows), kind=kOutput, \
calls=%meanwhile, backend_config={"window_config":{"estimated_cycles":"20784",\
"iteration_bounds":["1"]}}
}

%condition (state.1: (s32[], s32[32,256])) -> pred[] {
  %layers = s32[]{:T(128)} constant(24)
  %state.1 = (s32[]{:T(128)}, s32[32,256]{1,0}) parameter(0)
  %layer = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%layer, %layers), direction=LT
}

ENTRY %main (arg: (s32[], s32[32,256])) -> (s32[], s32[32,256]) {
  %arg = (s32[]{:T(128)}, s32[32,256]{1,0}) parameter(0)
  ROOT %while.1 = (s32[]{:T(128)}, s32[32,256]{1,0}) while(%arg), \
condition=%condition, body=%body
}
"""

# Shortened output of the same compiler for a Pallas kernel, whose metadata is
# on separate lines.
KERNEL = """\
ENTRY %main (arg: bf16[4,14,1024,64]) -> f32[8] {
  %arg = bf16[4,14,1024,64]{3,2,1,0} parameter(0)
  %kernel = bf16[4,14,1024,64]{3,2,1,0:T(8,128)(2,1)S(1)} custom-call(%arg), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512, \\"block_kv\\": 512}"
}}, metadata={op_name="jit(update)/pallas_call"}
  ROOT %sum = f32[8]{0} all-reduce(%kernel), channel_id=3, to_apply=%add
}
"""


def test_a_kernel_does_not_end_a_computation():
  computations, entry = hlo.parse(KERNEL)
  assert list(computations[entry]) == ['arg', 'kernel', 'sum']
  kernel = computations[entry]['kernel']
  assert kernel.shapes == (('bf16', (4, 14, 1024, 64)),)
  assert kernel.operands == ['arg']
  assert kernel.rest.endswith('metadata={op_name="jit(update)/pallas_call"}')
  assert set(hlo.moved(list(hlo.walk(KERNEL)))) == {'all-reduce'}


def test_a_loop_of_the_tpu_compiler():
  runs = list(hlo.walk(TPU))
  assert hlo.flops(runs) == 24 * 2 * 2 * 2 * 7 * 512 * 512 * 64
  assert hlo.cycles(runs) == 24 * 20784
  # Once per layer, 128 x 256 numbers of four bytes.
  assert hlo.moved(runs) == {'all-gather': hlo.Moved(24, 24 * 128 * 256 * 4)}


def test_a_loop_with_an_unsigned_counter():
  """The TPU compiler creates them for a product and its gather."""
  text = TPU.replace(
    's32[]{:T(128)} constant(24)', 'u32[]{:T(128)} constant(8)'
  )
  assert hlo.cycles(list(hlo.walk(text, unknown_trips=3))) == 8 * 20784


def test_a_loop_whose_counter_is_incremented_by_two():
  text = TPU.replace(
    '  %rows =',
    '  %layer.1 = s32[] get-tuple-element(%state), index=0\n'
    '  %two = s32[] constant(2)\n'
    '  %next = s32[] add(%layer.1, %two)\n'
    '  %rows =',
  ).replace(
    '}\n\n%condition',
    '  ROOT %both = (s32[], s32[32,256]{1,0}) tuple(%next, %rows)\n'
    '}\n\n%condition',
  )
  assert hlo.cycles(list(hlo.walk(text))) == 12 * 20784


def test_a_loop_whose_bound_depends_on_data():
  text = TPU.replace('s32[]{:T(128)} constant(24)', 's32[]{:T(128)} add()')
  assert hlo.cycles(list(hlo.walk(text, unknown_trips=3))) == 3 * 20784


def test_a_text_without_a_program_is_an_error():
  with pytest.raises(ValueError, match='expected the text of a compiled'):
    hlo.parse('no program')


@pytest.mark.parametrize(
  'text, size',
  [
    ('f32[2,3]{1,0}', 24),
    ('(bf16[8]{0:T(8,128)(2,1)}, pred[5], s32[])', 16 + 5 + 4),
    ('f8e4m3fn[7]', 7),
    ('s4[6]', 3),
    ('token[]', 0),
  ],
)
def test_bytes(text, size):
  assert hlo.size_in_bytes(hlo.shapes_of(text)) == size


@functools.cache
def mesh():
  return sharding.make_mesh({'data': 1, 'fsdp': 8, 'tensor': 1})


def test_products_in_a_compiled_loop_are_counted_for_each_iteration():
  def run(x_BD, kernels_LDD):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x_BD, kernels_LDD)

  shapes = jax.ShapeDtypeStruct((32, 48), 'float32')
  kernels = jax.ShapeDtypeStruct((5, 48, 48), 'float32')
  text = jax.jit(run).lower(shapes, kernels).compile().as_text()
  assert hlo.flops(list(hlo.walk(text))) == 5 * 2 * 32 * 48 * 48


@pytest.mark.parametrize('at_once', [True, False])
def test_gathering_all_layers_at_once_is_reported(at_once):
  """Gathers sharded kernels [5, 48, 40] at once, or layer by layer."""
  split = NamedSharding(mesh(), P(None, 'fsdp'))
  whole = NamedSharding(mesh(), P())

  def run(x_BD, kernels_LDF):
    if at_once:
      kernels_LDF = jax.lax.with_sharding_constraint(kernels_LDF, whole)

    def layer(x_BD, kernel_DF):
      kernel_DF = jax.lax.with_sharding_constraint(kernel_DF, whole)
      return x_BD + jnp.tanh(x_BD @ kernel_DF) @ kernel_DF.T, None

    return jax.lax.scan(layer, x_BD, kernels_LDF)[0]

  x = jax.ShapeDtypeStruct((16, 48), 'float32', sharding=whole)
  kernels = jax.ShapeDtypeStruct((5, 48, 40), 'float32', sharding=split)
  text = jax.jit(run).lower(x, kernels).compile().as_text()
  gathered = hlo.moved(list(hlo.walk(text)))['all-gather']
  assert gathered.bytes == 5 * 48 * 40 * 4
  reported = hlo.gathered_stacks(text, [(5, 48, 40)])
  assert len(reported) == at_once
  assert all(line.endswith(': (5, 48, 40)') for line in reported)
