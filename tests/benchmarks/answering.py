"""A worker process that squares numbers, and also prints."""

from benchmarks import workers

if __name__ == '__main__':
  parent = workers.Parent()
  print('a library that prints')  # noqa: T201
  parent.send(ready=True)
  while (question := parent.receive()) is not None:
    print('again')  # noqa: T201
    if question['x'] < 0:
      break
    parent.send(square=question['x'] ** 2)
