"""Tests of the reference page of all config keys."""

import pathlib

from sqlm_jax.config import reference, schema

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'config.md'


def test_the_page_is_up_to_date():
  """`python -m sqlm_jax.config.reference > docs/config.md` updates it."""
  assert PAGE.read_text(encoding='utf-8') == reference.page()


def test_the_page_has_one_row_per_key():
  rows = [
    line for line in reference.page().splitlines() if line.startswith('| `')
  ]
  assert len(rows) == len(schema.KEYS)
  for key, row in zip(schema.KEYS, sorted(rows, key=_order), strict=True):
    assert row.startswith(f'| `{key.name}` |')
    # A `|` within a cell is escaped.
    assert row.replace(r'\|', '').count('|') == 7


def _order(row: str) -> int:
  names = [key.name for key in schema.KEYS]
  return names.index(row.split('`')[1])


def test_a_row():
  row = (
    '| `loss.clip_ratio` | `float` | `0.2` | Clip range of the probability '
    'ratio. | a number from 0 to 1 | no |'
  )
  assert row in reference.page().splitlines()
