"""Fills prompt templates."""


def fill(template: str, **values: str) -> str:
  """Replaces each `{name}` by its value in one pass; keeps other braces.

  `str.format` would fail on the braces of LaTeX or code. Replacing one name
  after another would expand placeholders in a question that a model wrote.
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
