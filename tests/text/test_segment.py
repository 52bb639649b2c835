"""What every segmenter promises, and the rule of each."""

import pickle
import time

import pytest
import regex
import rjieba
from hypothesis import example, given
from hypothesis import strategies as st

from llmcli.errors import InputError
from llmcli.text.segment.base import Segmenter, from_state
from llmcli.text.segment.characters import Characters
from llmcli.text.segment.chinese import ChineseWords, chinese_words
from llmcli.text.segment.english import EnglishWords
from llmcli.text.segment.sentences import Sentences
from llmcli.text.segment.whitespace import Whitespace

SEGMENTERS: dict[str, Segmenter] = {
    "whitespace": Whitespace(),
    "whole": EnglishWords(contractions="whole"),
    "treebank": EnglishWords(contractions="treebank"),
    "jieba": ChineseWords(hmm=True, user_words=[]),
    "jieba with words": ChineseWords(hmm=False, user_words=["量子罐头 n", "C++"]),
    "characters": Characters(keep_words=False),
    "characters and words": Characters(keep_words=True),
    "sentences": Sentences(),
}
every = pytest.mark.parametrize("segmenter", SEGMENTERS.values(), ids=SEGMENTERS.keys())
tricky = [" ", "\n\n", "\t", "\u3000", "\r\n", "\x1c", "\x85", "\0", "\ud83d", "\u200d", "\ufe0f", "\u0301", "\u3099"]
tricky += [
    "don't",
    "'s",
    "N’T",
    "U.S.",
    "Mr.",
    "3.14",
    "1,000",
    "www.",
    "http://",
    "a@b.co",
    "--",
    "...",
    "?!",
    '"',
    "”",
]
tricky += [
    "你好",
    "量子罐头",
    "。",
    "；",
    "……",
    "」",
    "，",
    "한국",
    "👨\u200d👩\u200d👧",
    "🇨🇳",
    "C++",
    "नि",
    "é",
    "\U00020000",
]
texts = st.lists(st.sampled_from(tricky) | st.text(st.characters()), max_size=12).map("".join)


@every
@given(text=texts)
@example(text="")
@example(text=" \n ")
def test_parts_are_the_text_but_for_white_space(segmenter, text):
    spans = segmenter.spans(text)
    assert segmenter(text) == [text[start:end] for start, end in spans]
    places = [0, *(place for span in spans for place in span), len(text)]
    assert places == sorted(places)
    assert all(start < end for start, end in spans)
    between = zip(places[::2], places[1::2], strict=True)
    assert not "".join(text[start:end] for start, end in between).strip()
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)


@every
@given(text=texts)
def test_joining_changes_white_space_alone(segmenter, text):
    assert "".join(segmenter.join(segmenter(text)).split()) == "".join(text.split())


@every
def test_a_segmenter_is_built_again_from_plain_values(segmenter):
    text = "Mr. O'Neil's \"C++\" isn't here. 量子罐头很好！真的吗？👨\u200d👩\u200d👧"
    for copy in (from_state(segmenter.state()), pickle.loads(pickle.dumps(segmenter))):
        assert type(copy) is type(segmenter)
        assert copy.state() == segmenter.state()
        assert copy(text) == segmenter(text)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "None is no segmenter"),
        ({"class": 3}, "3 is no segmenter"),
        ({"class": "os.system"}, "os.system is no segmenter"),
        ({"class": "llmcli.text.segment.base.importlib.import_module"}, "is no segmenter"),
        ({"class": "llmcli.text.segment.base.from_state"}, "is no segmenter"),
        ({"class": "llmcli.text.segment.english.Segmenter"}, "is no segmenter"),
        ({"class": "llmcli.text.segment.chinese.chinese_words", "user_dictionary": "x"}, "is no segmenter"),
        ({"class": "llmcli.text.segment.morse.Morse"}, "is no segmenter that this version has"),
        (
            {"class": "llmcli.text.segment.english.EnglishWords", "contractions": "cut"},
            "must be one of whole, treebank",
        ),
    ],
)
def test_only_segmenters_are_built(state, message):
    with pytest.raises(ValueError, match=message):
        from_state(state)


@every
@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "1.",
        "a.",
        "a-",
        "a'",
        "'s",
        "n't",
        "@a.",
        "http://",
        "www.!",
        ".",
        '"',
        '。"',
        "!?\n",
        "x ",
        "Mr. ",
        "字",
        "\u0301",
        "\u200d",
    ],
)
def test_the_time_grows_with_the_text_and_no_faster(segmenter, unit):
    start = time.process_time()
    segmenter(unit * 100_000)
    assert time.process_time() - start < 5  # a quadratic rule takes minutes


# -- english ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("He isn't Mary's.", "He is n't Mary 's ."),
        ("I'm, you're, we've, he'd, she'll", "I 'm , you 're , we 've , he 'd , she 'll"),
        ("CAN'T won’t cannot gonna", "CA N'T wo n’t cannot gonna"),
        ("O'Brien o'clock rock'n'roll", "O'Brien o'clock rock'n'roll"),
        ("well-known state-of-the-art, a - b", "well-known state-of-the-art , a - b"),
        ("AT&T's R&D", "AT&T 's R&D"),
        ("3.14, 1,000.50, 1,2 and 12:30", "3.14 , 1,000.50 , 1 , 2 and 12:30"),
        ("-5% of $3 on 2024-11-22", "- 5 % of $ 3 on 2024-11-22"),
        ("v1.2.3 and 1/2, 1990s", "v1.2.3 and 1/2 , 1990s"),
        (
            "Mr. Smith of the U.S., e.g. here, i.e. at 5 p.m. etc.",
            "Mr. Smith of the U.S. , e.g. here , i.e. at 5 p.m. etc.",
        ),
        (
            "see https://a.org/b_(c)?q=1&r. (http://a.org) www.a.org!",
            "see https://a.org/b_(c)?q=1&r . ( http://a.org ) www.a.org !",
        ),
        ('<a href="http://a.org">', '< a href = " http://a.org " >'),
        ("mail a.b+c@d-e.co.uk.", "mail a.b+c@d-e.co.uk ."),
        ("wait... what -- really?!", "wait ... what -- really ? !"),
        ("os.path.join(x_1, __name__)", "os . path . join ( x_1 , __name__ )"),
        ("naïve e\u0301te\u0301 हिन्दी straße", "naïve e\u0301te\u0301 हिन्दी straße"),
        ("你好，world。3个", "你 好 ， world 。 3 个"),
        ("カナ かな 한국어", "カ ナ か な 한국어"),
        ("ok👍🏽!", "ok 👍🏽 !"),
    ],
)
def test_english_words_follow_the_rule(text, words):
    assert SEGMENTERS["treebank"](text) == words.split()


def test_contractions_can_stay_whole():
    assert SEGMENTERS["whole"]("He isn't Mary's; o'clock.") == ["He", "isn't", "Mary's", ";", "o'clock", "."]


@pytest.mark.parametrize("name", ["whole", "treebank"])
@given(text=texts)
def test_an_english_word_alone_is_that_word(name, text):
    segmenter = SEGMENTERS[name]
    assert all(segmenter(word) == [word] for word in segmenter(text))


@pytest.mark.parametrize("name", ["whole", "treebank"])
@pytest.mark.parametrize(
    "text",
    [
        "Don't stop (now), Mr. O'Brien: it's 50% of $1,000...",
        "well-known “quotes” and [brackets] {braces} and/or x_1",
        "你好，世界。你好world",
    ],
)
def test_natural_text_is_put_together_as_it_was(name, text):
    segmenter = SEGMENTERS[name]
    assert segmenter.join(segmenter(text)) == text


# -- chinese ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hmm", [True, False])
@given(text=texts.filter(lambda text: "\ud83d" not in text))
@example(text="小明硕士毕业于中国科学院计算所，后在日本京都大学深造 C++ 3.5%")
def test_chinese_words_are_jiebas(hmm, text):
    expected = [word for word in rjieba.cut(text.encode("utf-8", "replace").decode(), hmm) if not word.isspace()]
    assert ChineseWords(hmm=hmm, user_words=[])(text.encode("utf-8", "replace").decode()) == expected


def test_user_words_stay_together():
    text = "他买了量子罐头和会唱歌的C++书"
    plain = ChineseWords(hmm=True, user_words=[])
    assert "量子罐头" not in plain(text)
    own = ChineseWords(hmm=True, user_words=["量子罐头", "会唱歌的 9"])
    assert "量子罐头" in own(text)
    assert "量子罐头" not in plain(text), "the words are one segmenter's own"
    assert own.join(own(text)) == text


def test_longer_user_words_win_over_the_words_in_them():
    for words in (["量子罐头", "量子罐头工厂"], ["量子罐头工厂", "量子罐头"]):
        assert ChineseWords(hmm=True, user_words=words)("量子罐头工厂") == ["量子罐头工厂"]


def test_user_words_bring_their_part_of_speech():
    assert ("量子罐头", "nz") in ChineseWords(hmm=True, user_words=["量子罐头 nz"]).tagged("买 量子罐头")
    assert SEGMENTERS["jieba"].tagged("我们 学习\ud83d3天") == [
        ("我们", "r"), ("学习", "v"), ("\ufffd", "x"), ("3", "m"), ("天", "q"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("你好，世界", "user word 你好，世界 cannot be one word: jieba always cuts it into 你好 ， 世界"),
        ("一 二 三 四", "'一 二 三 四' is no entry"),
        ("", "'' is no entry"),
        ("字\ud83d", "is no entry"),
    ],
)
def test_a_user_word_that_cannot_be_is_refused(word, message):
    with pytest.raises(InputError, match=message):
        ChineseWords(hmm=True, user_words=[word])


def test_a_user_dictionary_is_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\ufeff量子罐头 5 nz\n\n云端猫\n", "utf-8")
    segmenter = chinese_words(hmm=True, user_words=["C++"], user_dictionary=str(path))
    assert segmenter.user_words == ["C++", "量子罐头 5 nz", "云端猫"]
    path.unlink()
    assert "云端猫" in from_state(segmenter.state())("一只云端猫")
    with pytest.raises(InputError, match=r"words.txt cannot be read: No such file"):
        chinese_words(hmm=True, user_words=[], user_dictionary=str(path))
    path.write_bytes("云端猫".encode("gb18030"))
    with pytest.raises(InputError, match=r"words.txt is not UTF-8: byte 0xd4 at offset 0"):
        chinese_words(hmm=True, user_words=[], user_dictionary=str(path))


# -- characters ------------------------------------------------------------------------------------------------------

# but for Indic conjuncts and prepended marks
readable = st.sampled_from(
    [*"ab1.你，か字\u3099e\u0301\ufe0f\u200d한\u1100\u1161\u11a8\uac00\uac01👨👩❤🏽🇨🇳🇺กำ", "\u200b", "\xad"]
)


@given(text=st.lists(readable, max_size=10).map("".join))
def test_characters_are_extended_grapheme_clusters(text):
    assert SEGMENTERS["characters"](text) == regex.findall(r"\X", text)


def test_words_stay_whole_where_asked():
    text = "买iPhone 15吧，cafe\u0301！"
    assert SEGMENTERS["characters and words"](text) == ["买", "iPhone", "15", "吧", "，", "cafe\u0301", "！"]
    assert SEGMENTERS["characters"]("买iP") == ["买", "i", "P"]


# -- sentences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "It is 3.14. | It was not!",
        "He said: “Go.” | She went (there.) | Then?! | Yes.",
        "Dr. No, e.g. him, met J. R. Smith. | See Fig. 3 and no. 5, vs. others.",
        "He said no. | Then the sun rose at 5 a.m. | The end.",
        "The U.S. Army, etc. and Jan. 5. | So do I. | We left.",
        '"Really?" he asked. | "Why?", she said.',
        "1. First item. | 2. Second item.",
        "wait... what? no! | Look at example.org, v1.2.3.",
        "A title\n\n| some text that\nis wrapped. | 1 more.",
        "我来了。|他走了！|真的吗？！|算了；|好……|吃饭。",
        "他说：“我来。”|她说：「去吧。」|（真的。）|【完】",
        '他说："我来。|你去。"|他走了。|"好！"|她笑。',
        "他问“什么车？”，我说“火车。”。|完",
        "价格是3.5元!|房间很大.|早餐不错. |No.1 酒店。",
        "窗前明月光，\n疑是地上霜。|\n第一章\n|他来了",
    ],
)
def test_sentences_follow_the_rule(text):
    expected = [part.strip() for part in text.split("|")]
    assert SEGMENTERS["sentences"](text.replace("|", "")) == expected
