"""Log filters for messages of libraries that are of no use to a user."""

import logging


def silence_orbax() -> None:
  """Drops log messages of orbax and of the failures that it also raises.

  The errors themselves are reported by `workdir.checkpoint_errors`.
  """
  logging.getLogger('absl').addFilter(_not_from_orbax)
  logging.getLogger('asyncio').addFilter(_not_a_further_failure)


def _not_from_orbax(record: logging.LogRecord) -> bool:
  """Drops the many lines that orbax logs for each save through absl."""
  return 'orbax' not in record.pathname


def _not_a_further_failure(record: logging.LogRecord) -> bool:
  """Drops asyncio's report of further failed writes of the same save.

  If several writes fail, orbax raises only the first error.
  """
  error = record.exc_info[1] if record.exc_info else None
  is_left = 'exception was never retrieved' in record.getMessage()
  return not (is_left and isinstance(error, OSError))
