"""TPU slices by Google's names, and what is published about their chips."""

import math
from typing import NamedTuple


class Chip(NamedTuple):
  """One chip; bandwidths and FLOPs as Google publishes them."""

  hbm: int  # bytes that a program may use, by the compiler's own message
  flops: float  # a second, bfloat16
  hertz: float  # of the matrix units: `flops` over the products of a cycle
  link: float  # bytes a second to all neighbours together


class Slice(NamedTuple):
  """Chips that are rented together."""

  name: str
  topology: str  # in the compiler's words
  chips: int
  chip: Chip


CHIPS = {
  'v5e': Chip(int(15.75 * 2**30), 197e12, 197e12 / 2**17, 200e9),
  'v5p': Chip(int(95.74 * 2**30), 459e12, 459e12 / 2**18, 600e9),
  'v6e': Chip(int(31.25 * 2**30), 918e12, 918e12 / 2**19, 448e9),
}
# v5p is named by TensorCores, of which a chip has two; the others by chips.
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
  """The slice of that name.

  Raises:
    ValueError: if there is none, with those that there are.
  """
  if name not in SHAPES:
    raise ValueError(f'--slices={name}: expected some of {", ".join(SHAPES)}')
  kind, shape = SHAPES[name]
  chips = math.prod(map(int, shape.split('x')))
  return Slice(name, f'{kind}:{shape}', chips, CHIPS[kind])


def choose_mesh(chips: int, groups: int) -> tuple[int, int, int]:
  """A mesh (data, fsdp, tensor) for updates of so many groups.

  Parameters are split over as many chips as there are groups to divide among
  them; what is left splits heads and MLPs. A batch that does not divide would
  be computed by every chip again.
  """
  fsdp = math.gcd(chips, groups)
  return 1, fsdp, chips // fsdp
