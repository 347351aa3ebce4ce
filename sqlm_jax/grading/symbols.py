"""Tables that translate Unicode signs and LaTeX macros to plain text.

The parser works on ASCII and the six `MARKS`. An answer with a character or a
macro that is not in these tables is unparsed; nothing is dropped or guessed.
"""

import unicodedata

from sqlm_jax.text import normalize

MARKS = '°≠≈∈∪±'

_GREEK_LETTERS = {
  'α': 'alpha', 'β': 'beta', 'γ': 'gamma', 'δ': 'delta', 'ε': 'epsilon',
  'ζ': 'zeta', 'η': 'eta', 'θ': 'theta', 'ι': 'iota', 'κ': 'kappa',
  'λ': 'lambda', 'μ': 'mu', 'ν': 'nu', 'ξ': 'xi', 'ρ': 'rho', 'σ': 'sigma',
  'τ': 'tau', 'υ': 'upsilon', 'φ': 'phi', 'χ': 'chi', 'ψ': 'psi',
  'ω': 'omega', 'Γ': 'Gamma', 'Δ': 'Delta', 'Θ': 'Theta', 'Λ': 'Lambda',
  'Ξ': 'Xi', 'Π': 'Pi', 'Σ': 'Sigma', 'Υ': 'Upsilon', 'Φ': 'Phi', 'Ψ': 'Psi',
  'Ω': 'Omega', 'Α': 'Alpha', 'Β': 'Beta', 'Ε': 'Epsilon', 'Ζ': 'Zeta',
  'Η': 'Eta', 'Ι': 'Iota', 'Κ': 'Kappa', 'Μ': 'Mu', 'Ν': 'Nu',
  'Ο': 'Omicron', 'Ρ': 'Rho', 'Τ': 'Tau', 'Χ': 'Chi', 'ο': 'omicron',
}  # fmt: skip
GREEK = frozenset(_GREEK_LETTERS.values())
_GREEK_VARIANTS = {
  '\u00b5': 'mu', 'ς': 'sigma', 'ϵ': 'epsilon', 'ϑ': 'theta', 'ϱ': 'rho',
  'ϕ': 'phi',
}  # fmt: skip

SUPERSCRIPTS = dict(zip('⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ', '0123456789+-()ni', strict=True))
SUBSCRIPTS = dict(
  zip('₀₁₂₃₄₅₆₇₈₉ₐₑᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ', '0123456789aeijklmnoprstuvx', strict=True)
)

_DASHES = (
  f'{normalize.HYPHENS}\u2014\u2015\u2796\ufe58\ufe63'
  '\u30fc'  # the Japanese long vowel mark, often typed instead of a minus
)

_FRACTIONS = {
  char: unicodedata.normalize('NFKC', char).split('⁄')
  for char in '↉½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒'
}
# Without the full-width exclamation mark, which more often ends a sentence than
# it is a factorial, and the full-width tilde, which is a range.
_FULL_WIDTH = {
  chr(0xFF01 + i): chr(0x21 + i) for i in range(94) if chr(0x21 + i) not in '!~'
}
_SMALL_FORMS = {
  chr(code): plain
  for code in range(0xFE50, 0xFE6C)
  if len(plain := unicodedata.normalize('NFKC', chr(code))) == 1
  and plain.isascii()
  and plain != '!'
}
_LETTERS = {  # bold and italic letters and digits
  chr(code): plain
  for code in range(0x1D400, 0x1D800)
  if (plain := unicodedata.normalize('NFKC', chr(code))).isalnum()
  and plain.isascii()
}
_GREEK_SIGNS = {
  char: rf' \{name} '
  for char, name in (_GREEK_LETTERS | _GREEK_VARIANTS | {'π': 'pi'}).items()
}
_LETTERS |= {  # bold and italic Greek letters
  chr(code): _GREEK_SIGNS[plain]
  for code in range(0x1D6A8, 0x1D7CC)
  if (plain := unicodedata.normalize('NFKC', chr(code))) in _GREEK_SIGNS
}
_SPACES = dict.fromkeys(
  map(chr, (0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2007,
            0x2008, 0x200A, 0x205F, 0x3000)),
  ' ',
)  # fmt: skip
_THIN_SPACES = dict.fromkeys('\u00a0\u2009\u202f', '\\,')

SIGNS = {
  **_FULL_WIDTH, **_SMALL_FORMS, **_LETTERS, **_SPACES, **_THIN_SPACES,
  **dict.fromkeys(_DASHES, '-'),
  **dict.fromkeys(normalize.TIMES, '*'),
  **dict.fromkeys(normalize.DIVIDED_BY, '/'),
  **{char: rf'\frac{{{a}}}{{{b}}}' for char, (a, b) in _FRACTIONS.items()},
  **_GREEK_SIGNS, '∞': ' oo ', '\u2223': '|', 'ℝ': ' (-oo, oo) ',
  '√': r' \sqrt ', '∛': r' \sqrt[3] ', '∜': r' \sqrt[4] ',
  '≤': '<=', '≦': '<=', '⩽': '<=', '≥': '>=', '≧': '>=', '⩾': '>=',
  '∧': ' and ', '∨': ' or ', '≒': '≈',
  '€': ' EUR ', '£': ' GBP ', '¥': ' JPY ', '￥': ' JPY ', '円': ' JPY ',
  '元': ' CNY ', '₹': ' INR ', '₩': ' KRW ', '￦': ' KRW ', '₽': ' RUB ',
  '￡': ' GBP ', '¢': ' cents ', '￠': ' cents ',
  '㎜': ' mm', '㎝': ' cm', '㎞': ' km', '㎡': ' m^2', '㎥': ' m^3',
  '㎎': ' mg', '㎏': ' kg', '℃': '°C', '℉': '°F',
  '′': "'", '″': "''", '\u2126': 'ohm',
  # Full stops and commas that are never part of a number.
  '。': '. ', '｡': '. ', '、': ', ', '､': ', ',
}  # fmt: skip
_JOINERS = {  # longer words come first, also in the tables below
  'または': ' or ', '又は': ' or ', 'もしくは': ' or ', 'あるいは': ' or ',
  '或者': ' or ', '或': ' or ', '또는': ' or ',
  'かつ': ' and ', 'および': ' and ', '及び': ' and ', '并且': ' and ',
  '且': ' and ', '和': ' and ', '그리고': ' and ',
}  # fmt: skip
UNIT_WORDS = {
  'キロメートル': ' km ', 'センチメートル': ' cm ', 'ミリメートル': ' mm ',
  'メートル': ' m ', 'センチ': ' cm ', '千米': ' km ', '公里': ' km ',
  '厘米': ' cm ', '毫米': ' mm ', '米': ' m ',
  'キログラム': ' kg ', 'ミリグラム': ' mg ', 'グラム': ' g ',
  '千克': ' kg ', '公斤': ' kg ', '克': ' g ',
  'ミリリットル': ' ml ', 'リットル': ' L ', '毫升': ' ml ', '升': ' L ',
  '時間': ' h ', '小时': ' h ', '分钟': ' min ', '分': ' min ', '秒': ' s ',
  '日': ' day ', '天': ' day ', '年': ' yr ', '度': '°',
  'パーセント': '%', 'ドル': ' $ ', '美元': ' $ ', 'ユーロ': ' EUR ',
  '欧元': ' EUR ', '個': ' pieces ', '个': ' pieces ', '人': ' people ',
}  # fmt: skip
WORDS = {
  **_JOINERS, '平方': ' square ', '立方': ' cubic ', **UNIT_WORDS,
}  # fmt: skip

# LaTeX macro -> its plain text; '' for a macro that affects only typesetting.
MACROS = {
  **dict.fromkeys(
    ('left', 'right', 'big', 'Big', 'bigg', 'Bigg', 'bigl', 'bigr', 'Bigl',
     'Bigr', 'biggl', 'biggr', 'limits', 'nolimits'), ''),
  **dict.fromkeys(('displaystyle', 'textstyle', 'scriptstyle'), ' '),
  **dict.fromkeys(('dfrac', 'tfrac', 'cfrac'), r'\frac'),
  **dict.fromkeys(('dbinom', 'tbinom'), r'\binom'),
  **dict.fromkeys(('lvert', 'rvert', 'vert'), '|'),
  **dict.fromkeys(('cdot', 'times', 'ast'), '*'), 'div': '/',
  **dict.fromkeys(('le', 'leq', 'leqslant', 'leqq'), '<='),
  **dict.fromkeys(('ge', 'geq', 'geqslant', 'geqq'), '>='),
  'lt': '<', 'gt': '>', 'ne': '≠', 'neq': '≠', 'approx': '≈', 'in': '∈',
  'cup': '∪', 'pm': '±', 'infty': ' oo ',
  **dict.fromkeys(('land', 'wedge'), ' and '),
  **dict.fromkeys(('lor', 'vee'), ' or '),
  'lbrace': '{', 'rbrace': '}', 'degree': '°', 'textdegree': '°',
  **dict.fromkeys(('percent', 'textpercent'), '%'),
  'textdollar': '$', 'euro': ' EUR ', 'pounds': ' GBP ', 'yen': ' JPY ',
  'varepsilon': r'\epsilon', 'vartheta': r'\theta', 'varrho': r'\rho',
  'varphi': r'\phi',
}  # fmt: skip
