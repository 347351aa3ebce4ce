"""Settings of the docs site.

pip install -e '.[docs]' && sphinx-build -W -n docs build/docs
"""

import re

project = 'sqlm_jax'
author = 'The sqlm_jax authors'
extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx_copybutton',
]
html_theme = 'furo'
html_title = 'sqlm_jax'
html_show_copyright = False

# Links to headings work as on GitHub.
myst_heading_anchors = 3
# Notebooks are run by the tests, not here.
nb_execution_mode = 'off'

autodoc_default_options = {
  'members': True,
  'member-order': 'bysource',
  'special-members': '__call__',
}
autodoc_typehints_format = 'short'
default_role = 'code'
highlight_language = 'none'
napoleon_use_ivar = True
napoleon_use_rtype = False
# Types that this site does not document, and type variables.
nitpick_ignore_regex = [
  ('py:.*', r'(chex|collections|jax|numpy|optax|random|typing)\..*'),
  ('py:.*', r'sqlm_jax\.(config|models)\..*'),
  ('py:.*', r'(.*\.)?~?(Array|ArrayTree|Batch|Frozen|Params)'),
]

# A line of a table or of an equation in a docstring.
_LAID_OUT = re.compile(r'\s|.*(\S  +\S| = )')


def _keep_layout(app, what, name, obj, options, lines: list[str]) -> None:
  """Keeps the lines of tables and equations in a docstring apart."""
  del app, what, name, obj, options  # unused
  sections = [i for i, line in enumerate(lines) if re.match(r'\w+:$', line)]
  end = min(sections, default=len(lines))
  text = '\n'.join(lines[:end])
  paragraphs = re.split(r'\n\n+', text)
  for index, paragraph in enumerate(paragraphs):
    if index and all(map(_LAID_OUT.match, paragraph.splitlines())):
      block = '\n'.join(f'  {line}' for line in paragraph.splitlines())
      paragraphs[index] = f'::\n\n{block}\n'
  lines[:end] = [*'\n\n'.join(paragraphs).splitlines(), '']


def _skip_fields(app, what, name, obj, skip: bool, options) -> bool | None:
  """Leaves out fields of a NamedTuple, which its docstring describes."""
  del app, what, name, skip, options  # unused
  return True if type(obj).__name__ == '_tuplegetter' else None


def _adapt_links(app, page: str, source: list[str]) -> None:
  """Adapts links to files outside `docs`.

  Files in the root of the repository are included in a page. Notebooks can be
  downloaded.
  """
  del app, page  # unused
  for name in ('CHANGELOG', 'CONTRIBUTING', 'SECURITY'):
    source[0] = source[0].replace(f'](../{name}.md', f']({name.lower()}.md')
  source[0] = re.sub(
    r'\[(\w+\.ipynb)\]\((\S+)\)', r'{download}`\1 <\2>`', source[0]
  )


def setup(app) -> None:
  app.connect('source-read', _adapt_links)
  app.connect('autodoc-skip-member', _skip_fields)
  app.connect('autodoc-process-docstring', _keep_layout, priority=1)
