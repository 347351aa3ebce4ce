"""Decides about votes in a spreadsheet, in place of a person.

  python -m examples.review_orders runs/orders/queue.csv 20

The columns verdict and answer of the first rows are filled in: accept or
correct if the order has one quantity in words, and exclude otherwise.
"""

import collections
import csv
import sys

from sqlm_jax.datasets import orders


def decide(question: str, vote: str) -> tuple[str, str]:
  """Returns the verdict and, for a correction, the true answer."""
  quantity = orders.quantity(question)
  if quantity is None:
    return 'exclude', ''
  return ('accept', '') if quantity == vote else ('correct', quantity)


def fill(path: str, count: int) -> collections.Counter[str]:
  """Fills in the first rows of a file; returns the number of each verdict."""
  with open(path, encoding='utf-8-sig', newline='') as file:
    reader = csv.DictReader(file)
    rows = list(reader)
  for row in rows[:count]:
    row['verdict'], row['answer'] = decide(row['question'], row['vote'])
  with open(path, 'w', encoding='utf-8-sig', newline='') as file:
    writer = csv.DictWriter(file, reader.fieldnames or ())
    writer.writeheader()
    writer.writerows(rows)
  return collections.Counter(row['verdict'] for row in rows[:count])


if __name__ == '__main__':
  for verdict, number in fill(sys.argv[1], int(sys.argv[2])).items():
    print(f'{verdict}: {number}')
