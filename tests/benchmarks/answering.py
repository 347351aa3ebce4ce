"""A process as the benchmarks start them: squares numbers, and chatters."""

from benchmarks import workers

if __name__ == '__main__':
  parent = workers.Parent()
  print('a library that prints')  # noqa: T201
  parent.tell(ready=True)
  while (question := parent.listen()) is not None:
    print('again')  # noqa: T201
    if question['x'] < 0:
      break
    parent.tell(square=question['x'] ** 2)
