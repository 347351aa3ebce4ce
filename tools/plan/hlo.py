"""Analyzes the HLO text of a compiled program: loops, FLOPs, collectives.

XLA's own `cost_analysis` counts the body of a loop once. This module counts it
once for each iteration. All numbers are for one device.
"""

import collections
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'ragged-all-to-all',
  'collective-broadcast',
)
_CALLERS = ('while', 'fusion', 'call', 'conditional', 'async-start')
_COUNTERS = [((x, ()),) for x in ('s32', 's64', 'u32', 'u64')]
_BITS = {'pred': 8, 'bf16': 16}  # the names of other dtypes contain their width


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  shapes: tuple[tuple[str, tuple[int, ...]], ...]  # (dtype, sizes) per result
  op: str
  arguments: str  # the text between parentheses
  rest: str  # the attributes

  @property
  def operands(self) -> list[str]:
    return re.findall(r'%([\w.\-]+)', self.arguments)


class Run(NamedTuple):
  """An instruction, its computation, and the number of times it runs."""

  instruction: Instruction
  computation: dict[str, Instruction]
  times: int
  fused: bool  # True inside a fusion, which runs as one instruction


class Moved(NamedTuple):
  """Totals for one kind of collective in one run of the program."""

  count: int
  bytes: int  # the larger of the input's and the output's size, summed


def shapes_of(text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
  """Parses shapes: '(f32[2,3], s32[])' gives (('f32', (2, 3)), ('s32', ()))."""
  return tuple(
    (dtype, tuple(map(int, filter(None, sizes.split(',')))))
    for dtype, sizes in re.findall(r'\b([a-z]\w*)\[([\d,]*)\]', text)
  )


def size_in_bytes(shapes) -> int:
  """Returns the size of arrays, without the padding of a device's layout."""
  total = 0
  for dtype, sizes in shapes:
    digits = re.match(r'[a-z]+(\d+)', dtype)
    bits = _BITS.get(dtype) or int(digits[1] if digits else 0)
    total += math.prod(sizes) * bits // 8
  return total


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
  """Returns the computations by name, and the name of the entry computation."""
  computations, entry, current = {}, '', None
  # Joins the metadata of Pallas kernels, which is on separate lines.
  for line in re.sub(r'\n(?="|\}\})', '', text).splitlines():
    head = re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{$', line)
    if head:
      current = computations.setdefault(head[2], {})
      entry = head[2] if head[1] else entry
    elif line.startswith('}'):
      current = None
    elif current is not None and (parsed := _instruction(line)):
      current[parsed.name] = parsed
  if not entry:
    raise ValueError(f'{text[:80]!r}: expected the text of a compiled program')
  return computations, entry


def _instruction(line: str) -> Instruction | None:
  head = re.match(r'\s+(?:ROOT )?%?([\w.\-]+) = ', line)
  if not head:
    return None
  body = line[head.end() :]
  end = _closing(body, 0) if body.startswith('(') else body.index(' ')
  shape, body = body[:end], body[end:].lstrip(' ')
  start = body.index('(')
  end = _closing(body, start)
  return Instruction(
    head[1],
    shapes_of(shape),
    body[:start],
    body[start + 1 : end - 1],
    body[end:],
  )


def _closing(text: str, start: int) -> int:
  """Returns the index after the parenthesis that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] == '(') - (text[i] == ')')
    if not depth:
      return i + 1
  raise ValueError(f'{text[:80]!r}: expected a closing bracket')


def walk(text: str, *, unknown_trips: int = 1) -> Iterator[Run]:
  """Yields all instructions that run, with the number of times they run.

  Args:
    text: `compiled.as_text()`.
    unknown_trips: the number of iterations to assume for loops whose bound
      depends on data.
  """
  computations, entry = parse(text)

  def visit(name, times, fused):
    computation = computations[name]
    for instruction in computation.values():
      yield Run(instruction, computation, times, fused)
      inner_times = times
      if instruction.op == 'while':
        inner_times *= _trips(instruction, computations) or unknown_trips
      if instruction.op in _CALLERS:
        for called in _called(instruction):
          yield from visit(
            called, inner_times, fused or instruction.op == 'fusion'
          )

  yield from visit(entry, 1, False)


def _called(instruction: Instruction) -> list[str]:
  pattern = r'(?:body|calls|to_apply|\w+_computation)=%?([\w.\-]+)'
  names = re.findall(pattern, instruction.rest)
  branches = r'branch_computations=\{([^}]*)\}'
  for listed in re.findall(branches, instruction.rest):
    names += re.findall(r'%?([\w.\-]+)', listed)
  return names


def _trips(loop: Instruction, computations) -> int | None:
  """Returns the number of iterations of a loop, None if it is unknown.

  The number is the compiler's if it states one. Otherwise it follows from the
  constant in the loop's condition, assuming that the counter starts at 0. The
  TPU compiler's own loops, which overlap products with a gather, have unsigned
  counters that may be incremented by 2.
  """
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
    return int(known[1])
  name = re.search(r'condition=%?([\w.\-]+)', loop.rest)[1]
  bounds = [
    int(instruction.arguments)
    for instruction in computations[name].values()
    if instruction.op == 'constant' and instruction.shapes in _COUNTERS
  ]
  if not bounds:
    return None
  body = re.search(r'body=%?([\w.\-]+)', loop.rest)[1]
  return math.ceil(
    max(bounds) / _stride(computations[name], computations[body])
  )


def _stride(condition, body) -> int:
  """Returns the loop counter's increment per iteration; 1 if unknown."""
  indices = map(_index, condition.values())
  read = [index for index in indices if index is not None]
  *_, root = body.values()
  if len(read) != 1 or root.op != 'tuple':
    return 1

  def added(name) -> int | None:
    instruction = body.get(name)
    if instruction is None:
      return None
    if instruction.op == 'add':
      for constant, other in (instruction.operands, instruction.operands[::-1]):
        if constant in body and body[constant].op == 'constant':
          rest = added(other)
          return None if rest is None else rest + int(body[constant].arguments)
    return 0 if _index(instruction) == read[0] else None

  return added(root.operands[read[0]]) or 1


def _index(instruction: Instruction) -> int | None:
  """Returns the index of a get-tuple-element, None for other instructions."""
  index = re.search(r'index=(\d+)', instruction.rest)
  if instruction.op != 'get-tuple-element' or not index:
    return None
  return int(index[1])


def moved(runs: Sequence[Run]) -> dict[str, Moved]:
  """Returns the number of runs and the bytes for each kind of collective.

  An asynchronous collective appears in several fusions with the same channel;
  only its first appearance is counted.
  """
  totals, seen = collections.defaultdict(lambda: Moved(0, 0)), set()
  for instruction, computation, times, _ in runs:
    kind = instruction.op.removesuffix('-start')
    if kind not in COLLECTIVES:
      continue
    channel = re.search(r'channel_id=(\d+)', instruction.rest)
    if channel and channel[1] in seen:
      continue
    seen.add(channel and channel[1])
    bytes_in = size_in_bytes(_operand_shapes(instruction, computation))
    bytes_out = size_in_bytes(instruction.shapes)
    if kind != instruction.op and len(instruction.shapes) > 1:
      bytes_out -= bytes_in  # the result of a start op includes its operands
    count, total = totals[kind]
    totals[kind] = Moved(
      count + times, total + times * max(bytes_in, bytes_out)
    )
  return dict(totals)


def _operand_shapes(instruction: Instruction, computation):
  return tuple(
    shape
    for name in instruction.operands
    if name in computation
    for shape in computation[name].shapes
  )


def flops(runs: Sequence[Run]) -> int:
  """Returns the FLOPs of matrix products, two per multiply-add."""
  total = 0
  for instruction, computation, times, _ in runs:
    if instruction.op == 'dot':
      (_, left), *_ = _operand_shapes(instruction, computation)
      dims = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.rest)
      summed = math.prod(left[int(i)] for i in dims[1].split(',') if i)
      total += 2 * times * math.prod(instruction.shapes[0][1]) * summed
    elif instruction.op == 'convolution':
      total += 2 * times * _convolution(instruction, computation)
  return total


def _convolution(instruction: Instruction, computation) -> int:
  """Returns the number of multiplications of a convolution.

  On a TPU, matrix products with batch dimensions are convolutions.
  """
  (_, left), (_, kernel) = _operand_shapes(instruction, computation)
  out = instruction.shapes[0][1]
  ins, kernels, outs = re.search(
    r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.rest
  ).groups()
  window = re.search(r'window=\{([^}]*)\}', instruction.rest)
  window = dict(x.split('=') for x in window[1].split()) if window else {}
  split = {k: v.split('x') for k, v in window.items()}
  count = left[ins.index('b')] * kernel[kernels.index('i')]
  count *= kernel[kernels.index('o')]
  for i in range(len(ins) - 2):

    def pick(key, default, i=i):
      return split[key][i] if key in split else default

    size = left[ins.index(str(i))]
    at = np.arange(out[outs.index(str(i))])[:, None] * int(pick('stride', 1))
    steps = np.arange(kernel[kernels.index(str(i))])[None]
    at = at + steps * int(pick('rhs_dilate', 1))
    at = at - int(pick('pad', '0_0').split('_')[0])
    apart = int(pick('lhs_dilate', 1))
    # Padding and the gaps of a dilation are not multiplied.
    real = (at >= 0) & (at <= (size - 1) * apart) & (at % apart == 0)
    count *= int(real.sum())
  groups = re.search(r'batch_group_count=(\d+)', instruction.rest)
  return count // int(groups[1] if groups else 1)


def cycles(runs: Sequence[Run]) -> int:
  """Returns the TPU compiler's estimate of cycles without communication.

  Returns 0 if the compiler gives no estimate.
  """
  total = 0
  for instruction, _, times, fused in runs:
    estimate = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
    if estimate and not fused:
      total += times * int(estimate[1])
  return total


def gathered_stacks(
  text: str, parameters: Sequence[tuple[int, ...]]
) -> list[str]:
  """Returns descriptions of all-gathers of all layers of a parameter.

  Sharded parameters are supposed to be gathered one layer at a time. Gathering
  all layers at once would need the memory that sharding has saved.

  Args:
    text: `compiled.as_text()`.
    parameters: shapes of stacked parameters, [L, ...].
  """
  sizes = {math.prod(shape): shape for shape in parameters}
  gathered = {}
  for instruction, *_ in walk(text):
    if instruction.op.removesuffix('-start') != 'all-gather':
      continue
    # The compiler may have merged or transposed dimensions, but not their
    # product.
    _, result = instruction.shapes[-1]
    if math.prod(result) in sizes:
      gathered[instruction.name] = (
        f'{instruction.name}: {sizes[math.prod(result)]}'
      )
  return list(gathered.values())
