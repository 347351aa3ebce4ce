"""Human-readable JSON, which keeps letters such as 注文 unescaped."""

import json
import re
from typing import Any

# Characters that UTF-8 cannot encode (lone surrogates), that some parsers treat
# as line breaks, or that control a terminal.
_ESCAPED = re.compile(
  '[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]'
)


def dumps(value: Any, **settings: Any) -> str:
  """Returns `json.dumps(value, **settings)` without escaping non-ASCII letters.

  The text can be encoded in UTF-8 and decodes to the same value. Without an
  indent, every parser treats it as a single line.
  """
  text = json.dumps(value, ensure_ascii=False, **settings)
  return _ESCAPED.sub(lambda match: f'\\u{ord(match[0]):04x}', text)
