"""Texts in many scripts, and with the characters that searches in databases get wrong."""

# ruff: noqa: E501, RUF001 - a formatter counts wide characters twice

from hypothesis import strategies as st

WORDS = (
    "the", "needle", "The", "café", "cafe\u0301", "Ångström", "naïve", "ÆØÅ", "ﬁle", "ＡＢＣ",
    "İstanbul", "ISPARTA", "ısparta", "diyarbakır", "i\u0307", "Straße", "STRASSE", "STRAẞE",
    "ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς", "ᾳ", "Москва", "МОСКВА", "京都", "東京都", "京", "你好，世界", "カタカナ",
    "ｶﾀｶﾅｶﾞ", "ガ", "ひらがな", "한국어", "\u1112\u1161\u11ab", "ภาษาไทย", "ก่อน", "हिन्दी", "العربية", "שלום",
    "👍", "👍🏽", "👩\u200d💻", "🇩🇪", "%", "_", "100%", "a_b", "*", "?", "'", '"', "''", "\\", "\\%",
    "C++", "x", "qz", "^$.*", "(", "-", "NEAR", "AND", "\0", "a\0b", "\ufffd", "\u0301", "¨", "½",
)  # fmt: skip
SPACES = (" ", " ", " ", "", "\n", "\t ", "  ", "\u3000", "\xa0", "\u200b")

_anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def texts(max_words: int = 12) -> st.SearchStrategy[str]:
    """Return texts of words in many scripts, with anything between them now and then."""
    word = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), _anything)
    pair = st.tuples(word, st.sampled_from(SPACES)).map("".join)
    return st.lists(pair, max_size=max_words).map("".join)
