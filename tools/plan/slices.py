"""TPU slices by Google's names, and the published properties of their chips."""

import math
from typing import NamedTuple


class Chip(NamedTuple):
  """A TPU chip, with bandwidths and FLOPs as published by Google."""

  hbm: int  # bytes that a program may use, according to the compiler
  flops: float  # bfloat16 FLOPs per second
  hertz: float  # clock of the matrix units: `flops` / FLOPs per cycle
  link: float  # bytes per second to all neighbors together


class Slice(NamedTuple):
  """A set of chips that is rented as a unit."""

  name: str
  topology: str  # the compiler's name
  chips: int
  chip: Chip


CHIPS = {
  'v5e': Chip(int(15.75 * 2**30), 197e12, 197e12 / 2**17, 200e9),
  'v5p': Chip(int(95.74 * 2**30), 459e12, 459e12 / 2**18, 600e9),
  'v6e': Chip(int(31.25 * 2**30), 918e12, 918e12 / 2**19, 448e9),
}
# v5p slices are named by the number of TensorCores, two per chip; other slices
# by the number of chips.
_FLAT = {4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16'}
_FLAT |= {256: '16x16'}
_CUBES = {8: '2x2x1', 16: '2x2x2', 32: '2x2x4', 64: '2x4x4', 128: '4x4x4'}
_CUBES |= {256: '4x4x8', 512: '4x8x8'}
SHAPES = {
  f'{kind}-{number}': (kind, shape)
  for kind, shapes in (('v5e', _FLAT), ('v5p', _CUBES), ('v6e', _FLAT))
  for number, shape in shapes.items()
}
DEFAULT = ('v5e-4', 'v5e-16', 'v5e-256', 'v5p-128', 'v6e-64')


def find(name: str) -> Slice:
  """Returns the slice with the given name.

  Raises:
    ValueError: if the name is unknown. The message lists the known names.
  """
  if name not in SHAPES:
    raise ValueError(f'--slices={name}: expected some of {", ".join(SHAPES)}')
  kind, shape = SHAPES[name]
  chips = math.prod(map(int, shape.split('x')))
  return Slice(name, f'{kind}:{shape}', chips, CHIPS[kind])


def choose_mesh(chips: int, groups: int) -> tuple[int, int, int]:
  """Returns a mesh (data, fsdp, tensor) for updates of `groups` groups.

  The size of the `fsdp` axis is the greatest common divisor of the number of
  chips and the number of groups. The `tensor` axis, which shards heads and
  MLPs, has the remaining factor. If `fsdp` did not divide the number of groups,
  every chip would compute the entire batch.
  """
  fsdp = math.gcd(chips, groups)
  return 1, fsdp, chips // fsdp
