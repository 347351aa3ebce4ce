"""A stored tokenizer: its rules, named tokens and chat templates."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import tokenizers

TOKENIZER_FILE = 'tokenizer.json'
CONFIG_FILE = 'tokenizer_config.json'
DEFAULT_TEMPLATE = 'default'


class StoredTokenizer(NamedTuple):
  """The content of the file or directory that holds a tokenizer.

  Attributes:
    backend: splits text into tokens. All rules are in it.
    named: tokens by their role, such as 'bos_token'.
    templates: chat templates by name. Prompts are rendered with the template
      named `DEFAULT_TEMPLATE`; the others are only exported.
    settings: other keys of tokenizer_config.json, kept for an export.
  """

  backend: tokenizers.Tokenizer
  named: Mapping[str, str]
  templates: Mapping[str, str]
  settings: Mapping[str, Any] = {}

  @property
  def template(self) -> str | None:
    """The chat template of prompts, None if there is none."""
    return self.templates.get(DEFAULT_TEMPLATE)

  def save(self, directory: pathlib.Path) -> None:
    """Writes the files of Hugging Face, for transformers 4.5x and 5.

    PreTrainedTokenizerFast is the only class that follows tokenizer.json in
    both versions. Version 4 does not know the class name that version 5 writes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    self.backend.save(str(directory / TOKENIZER_FILE))
    added = self.backend.get_added_tokens_decoder()
    keys = ('content', 'lstrip', 'normalized', 'rstrip', 'single_word')
    config = dict(self.settings) | {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'clean_up_tokenization_spaces': False,
      # Version 4 writes this value into the rules, so it must match them.
      'add_prefix_space': self._adds_prefix_space(),
      'added_tokens_decoder': {
        str(i): {key: getattr(token, key) for key in keys}
        | {'special': token.special}
        for i, token in sorted(added.items())
      },
      # Both versions read this key; version 4 reads no other.
      'additional_special_tokens': [
        token.content
        for _, token in sorted(added.items())
        if token.special and token.content not in self.named.values()
      ],
      **self._safely_named(),
    }
    if self.templates.keys() == {DEFAULT_TEMPLATE}:
      config['chat_template'] = self.template
    elif self.templates:
      config['chat_template'] = [
        {'name': name, 'template': template}
        for name, template in self.templates.items()
      ]
    text = json.dumps(config, indent=2, ensure_ascii=False)
    path = directory / CONFIG_FILE
    path.write_text(text + '\n', encoding='utf-8')

  def _safely_named(self) -> dict[str, str]:
    """Returns the named tokens that are not ordinary text.

    A pad token '!', for example, is ordinary text: transformers would match it
    in any text before the text is split.
    """
    backend = self.backend
    added = {
      token.content for token in backend.get_added_tokens_decoder().values()
    }
    return {
      role: text
      for role, text in self.named.items()
      if role in ('bos_token', 'eos_token')
      or text in added
      or backend.encode(text, add_special_tokens=False).ids
      != [backend.token_to_id(text)]
    }

  def _adds_prefix_space(self) -> bool:
    """Returns True if the rules put a space before a text."""
    first = self.backend.pre_tokenizer
    return bool(getattr(first, 'add_prefix_space', False))
