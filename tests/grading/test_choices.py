"""Answers to multiple-choice questions."""

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.grading import choices

CITIES = ('London', 'Paris', 'New York', 'Rome')
CAUSES = ('摩耗した工具', '温度異常', '材料の汚れ', 'はんだ不良')


@pytest.mark.parametrize(
  'text',
  [
    'B', 'b', ' B\n', '(B)', '(b)', 'b)', 'B.', 'B:', '[B]', '**B**', '"B"',
    'Answer: B', 'answer: (b)', 'Answer B', 'The answer is B.', 'Option B',
    'The correct answer is (B).', 'the final answer is: b', 'Choice B', 'Ｂ',
    'The best option is **B**.',
  ],
)  # fmt: skip
def test_letters(text):
  assert choices.choice(text) == 'B'
  assert choices.choice(text, CITIES) == 'B'


@pytest.mark.parametrize(
  'text, expected',
  [
    ('Paris', 'B'),
    ('paris.', 'B'),
    (' "Paris" ', 'B'),
    ('new  york', 'C'),
    ('B) Paris', 'B'),
    ('B) **Paris**', 'B'),
    ('(c) New York', 'C'),
    ('C: new york.', 'C'),
    ('d. Rome', 'D'),
    ('B) Rome', None),  # the letter and the text belong to different options
    ('E', None),  # there are four options
    ('(E)', None),
    ('Berlin', None),
    ('e) Berlin', None),
    ('Paris and Rome', None),
    ('A or B', None),
    ('A, B', None),
    ('AB', None),
    ('a city', None),
    ('1', None),
    ('é', None),
    ('', None),
    (' ', None),
    ('()', None),
    ('answer:', None),
    ('Answer', None),
    ('B' * 10**6, None),
    ('(' * 1000, None),
    ('B\x00', None),
  ],
)
def test_among_options(text, expected):
  assert choices.choice(text, CITIES) == expected


@pytest.mark.parametrize(
  'text, options, expected',
  [
    # An option's text has priority over a letter: 'b' is the text of A.
    ('B', ('b', 'a'), 'A'),
    ('a', ('b', 'a'), 'B'),
    ('5', ('4', '5'), 'B'),
    ('b) 5', ('4', '5'), 'B'),
    ('a) 5', ('4', '5'), None),
    ('5', ('5', '5'), None),  # ambiguous
    ('b', ('5', '5'), 'B'),
    ('Z', (), 'Z'),
    ('Paris', (), None),
    ('b) Paris', (), None),
    ('', ('', 'x'), None),
    ('Option A', ('Option B', 'Option A'), 'B'),
  ],
)
def test_corner_cases(text, options, expected):
  assert choices.choice(text, options) == expected


@pytest.mark.parametrize(
  'text',
  [
    'The answer is (B) Paris.', 'Answer: Paris', 'Option B: Paris', 'B Paris',
    '$B$', r'\boxed{B}', r'$\boxed{B}$.', r'\boxed{\text{B}}', r'\(B\)',
    r'\boxed{\textbf{(B)}\ Paris}', r'\text{(B) }Paris', r'\textbf{(B)} Paris',
    '**B) Paris**', '**B**: Paris', '`B`', 'B - Paris', 'B – Paris',
    'B → Paris', 'B = Paris', 'B, Paris', 'B)Paris', '(B)Paris', 'B\nParis',
    'B: "Paris"', 'B (Paris)', 'Paris (B)', 'Paris, B', '(Paris)',
    '**Answer:** B', '**Final Answer**: (B) Paris', '### B', '[[B]]', '{B}',
    '<answer>B</answer>', '“B”', '‘B’', '«B»', 'Ⓑ', '⒝', '__B__', '**B',
    'Final Answer: The final answer is $\\boxed{B}$. I hope it is correct.',
    'B is correct.', 'B is the correct answer.', 'The correct option is B.',
    'The correct answer is option B: Paris.', 'I choose B', 'It is Paris.',
    "It's B.", 'So, the answer is B', 'Answer:\n**B**', 'Answer = B',
    'The answer is Paris (B).', 'option (b)', 'Letter B',
    'Die richtige Antwort ist B.', 'Antwort: B', 'Réponse : B',
    'La bonne réponse est B.', 'La respuesta correcta es la B.', 'Opción B',
    'La risposta corretta è B', 'A resposta correta é B', '정답은 B입니다.',
  ],
)  # fmt: skip
def test_options_in_sentences_and_typesetting(text):
  assert choices.choice(text, CITIES) == 'B'


@pytest.mark.parametrize(
  'text',
  [
    'B。', '「B」', '『B』', '【B】', '（Ｂ）', 'Ｂ．', 'Ｂ、', '〔B〕',
    '　Ｂ　', 'B、温度異常', 'B　温度異常', 'B：温度異常', 'B.温度異常',
    'B温度異常', '（B）温度異常', 'B）温度異常', 'B・温度異常', '温度異常',
    '温度異常。', '「温度異常」', '『温度異常』です。', '温度　異常',
    '温度異常（B）', '答え：B', '答えはB', '答えはBです', '答えは「B」です。',
    '答えは、Bです。', '答え B', '【答え】B', '正解はB', '正解：（Ｂ）',
    '正解はBです。', '解答：B', '回答：B', '選択肢B', '選択肢Bです',
    '選択肢B：温度異常', '選択肢（B）', 'Bです。', 'Bが正解です。',
    'Bの温度異常です。', 'B（温度異常）', 'B「温度異常」', 'B【温度異常】',
    'Bを選びます。', '最も適切な答えはBです', '答えは温度異常です。',
    '答えはBの温度異常です。', '答えはBだと思います。', '最終的な答え：B',
    '正解は選択肢Bです。', 'Ｂ：「温度異常」', '\u200bB', '答案是B',
    '答案是B。', '答案：B', '答案为B', '正确答案是B', '正确答案：（B）', '选B',
    '选择B', '选项B', '故选B。', '選B', 'B是正确的', 'B是正确答案',
  ],
)  # fmt: skip
def test_in_japanese_and_chinese(text):
  assert choices.choice(text, CAUSES) == 'B'


@pytest.mark.parametrize('options', [CITIES, CAUSES], ids=lambda x: x[0])
@pytest.mark.parametrize(
  'text',
  [
    'A or B', 'A and B', 'A、B', 'AとB', 'AまたはB', 'A・B', 'A/B', '(A)(B)',
    'B Rome', 'The answer is (B) Rome.', 'Paris (C)', 'Paris, C', 'Paris B',
    'not B', 'The answer is not B', 'Neither', 'B is not correct', 'B以外',
    'Bではありません', 'AでもBでもない', '答えはAかB', 'Both A and B',
    'Answer: A Answer: B', 'The answer is A. The answer is B.', 'Option E',
    'A) London B) Paris', 'Paris, not Rome', r'\boxed{A} or \boxed{B}', 'black',
    'bparis', 'B温度', 'B材料の汚れ', 'Bははんだ不良', 'B-', 'B+',
    'None of the above', 'ア', '①', '选', '答え', 'です', 'Option',
    'B Paris Rome', '~~B~~', '~B', '~~Paris~~', '~~A~~ B', '!B',
  ],
)  # fmt: skip
def test_ambiguous_answers_are_unparsed(text, options):
  assert choices.choice(text, options) is None


@pytest.mark.parametrize(
  'text, options, expected',
  [
    ('Option B', ('b', 'a'), 'B'),  # the word says that it is a letter
    ('C++', ('Java', 'C++', 'C'), 'B'),
    ('C', ('Java', 'C++', 'C'), 'C'),
    ('B: -5', ('5', '-5'), 'B'),
    ('A -5', ('5', '-5'), None),
    ('A - 5', ('5', '-5'), 'A'),
    ('5²', ('52', '5²'), 'B'),
    ('b) 5²', ('52', '25'), None),
    (r'B: $\frac{1}{2}$', ('2', r'\frac{1}{2}'), 'B'),
    ('$5', ('5', '$5'), 'B'),
    ('The answer is yes', ('no', 'yes'), 'B'),
    ('Dはんだ不良', CAUSES, 'D'),
    ('Dははんだ不良', CAUSES, 'D'),
    ('Aは摩耗した工具', CAUSES, 'A'),
    ('เครื่องมือสึก', ('ความร้อน', 'เครื่องมือสึก'), 'B'),
    ('B เครื่องมือสึก', ('ความร้อน', 'เครื่องมือสึก'), 'B'),
  ],
)
def test_letters_with_texts(text, options, expected):
  assert choices.choice(text, options) == expected


@pytest.mark.parametrize(
  'text', ['(' + '摩' * 900, 'Answer: ' * 120, '答えは' * 330, 'だ' * 999]
)
def test_repeated_introductions_take_linear_time(text):
  """With quadratic time, these texts would take minutes."""
  assert choices.choice(text, CITIES) is None


@hypothesis.given(
  st.sampled_from(
    ['{}', '{}。', '答えは{}です。', 'The answer is ({}).', '${}$']
  ),
  st.lists(
    # Options of one letter are excluded because a letter may name an option.
    st.text('摩耗温度 abAB。').filter(lambda x: len(x.strip(' 。')) > 1),
    min_size=1,
    max_size=5,
  ),
  st.data(),
)
def test_an_option_is_never_parsed_as_another(form, options, data):
  index = data.draw(st.integers(0, len(options) - 1))
  letter = choices.choice(form.format(options[index]), options)
  same = [choices.choice(option, options) for option in options]
  if letter is not None and same[index] is not None:
    assert letter == same[index]


@hypothesis.given(st.text(), st.lists(st.text(), max_size=30))
def test_any_text_can_be_parsed(text, options):
  letter = choices.choice(text, options)
  assert letter is None or ('A' <= letter <= 'Z' and len(letter) == 1)
  if letter is not None and options:
    assert ord(letter) - ord('A') < len(options)


@hypothesis.given(
  st.text('abcABC().: answeristhe*', max_size=20),
)
def test_canonical_letters_are_canonical(text):
  letter = choices.choice(text)
  if letter is not None:
    assert choices.choice(letter) == letter


def test_stars_may_be_part_of_an_option():
  options = ('2*3', '2+3')
  letters = [choices.choice(text, options) for text in ('2*3', '2+3', 'A) 2*3')]
  assert letters == ['A', 'B', 'A']
