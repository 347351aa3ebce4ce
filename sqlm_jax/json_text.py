"""JSON that people can read: 注文, not \\u6ce8\\u6587."""

import json
import re
from typing import Any

# Characters that UTF-8 cannot encode (lone surrogates), that some readers take
# for the end of a line, or that control a terminal.
_ESCAPED = re.compile(
  '[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]'
)


def dumps(value: Any, **settings: Any) -> str:
  """Returns `json.dumps(value, **settings)` with letters of all scripts.

  The text can be encoded in UTF-8 and read back to the same value. Without an
  indent it is one line for every reader.
  """
  text = json.dumps(value, ensure_ascii=False, **settings)
  return _ESCAPED.sub(lambda match: f'\\u{ord(match[0]):04x}', text)
