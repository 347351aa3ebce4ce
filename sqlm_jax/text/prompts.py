"""Filling prompt templates."""


def fill(template: str, **values: str) -> str:
  """Replaces `{name}` by its value, once, and leaves other braces alone.

  `str.format` would fail on the braces of LaTeX or code, and replacing name
  after name would expand a placeholder that a model wrote into its question.
  """
  parts = []
  rest = template
  while rest:
    starts = {
      at: name for name in values if (at := rest.find('{' + name + '}')) >= 0
    }
    if not starts:
      parts.append(rest)
      break
    at = min(starts)
    name = starts[at]
    parts += [rest[:at], values[name]]
    rest = rest[at + len(name) + 2 :]
  return ''.join(parts)
