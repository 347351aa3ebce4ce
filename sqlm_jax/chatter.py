"""What libraries say that a user need not hear."""

import logging


def hush_orbax() -> None:
  """What it has to say of failures it raises, too, and we name it there."""
  logging.getLogger('absl').addFilter(_not_from_orbax)
  logging.getLogger('asyncio').addFilter(_not_a_further_failure)


def _not_from_orbax(record: logging.LogRecord) -> bool:
  """It tells a page a save through absl's logger."""
  return 'orbax' not in record.pathname


def _not_a_further_failure(record: logging.LogRecord) -> bool:
  """Where several writes of a save fail, orbax raises the first of them."""
  error = record.exc_info[1] if record.exc_info else None
  is_left = 'exception was never retrieved' in record.getMessage()
  return not (is_left and isinstance(error, OSError))
