"""Counts excluded responses of a run, and checks that none was trained on.

  python -m examples.check_exclusions runs/orders examples/customers.txt

Also looks for the words in everything that was trained on, without the rules of
the run. Exits with an error if a word is found.
"""

import collections
import pathlib
import re
import sys

from pyarrow import parquet


def check(workdir: str, words_file: str) -> collections.Counter[str]:
  """Returns the number of responses by reason.

  Raises:
    ValueError: If a response that was trained on has one of the words.
  """
  words = pathlib.Path(words_file).read_text().split()
  pattern = re.compile(rf'\b({"|".join(map(re.escape, words))})\b', re.I)
  rows = parquet.read_table(
    pathlib.Path(workdir) / 'rollouts',
    columns=['role', 'response', 'reason', 'trained_on'],
  ).to_pylist()
  for row in rows:
    if row['trained_on'] and (found := pattern.search(row['response'])):
      raise ValueError(f'trained on {found[0]!r}: {row["response"]!r}')
  excluded = ('title', 'words')
  reasons = collections.Counter(
    f'{row["role"]}, {row["reason"]}'
    for row in rows
    if row['reason'] in excluded
  )
  reasons['trained on'] = sum(row['trained_on'] for row in rows)
  return reasons


if __name__ == '__main__':
  for name, number in check(sys.argv[1], sys.argv[2]).items():
    print(f'{name}: {number}')
