"""Function words of English and Chinese, and the step that removes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

from llmcli.errors import InputError
from llmcli.text.segment.base import Segmenter
from llmcli.text.segment.chinese import ChineseWords
from llmcli.text.segment.english import EnglishWords

Language = Literal["en", "zh"]

# Negations are left out: to remove them turns the meaning round.
_ENGLISH = """
a an the this that these those such some any each every either both all few many much more most less least several
other others another same own enough
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
herself it its itself they them their theirs themselves one ones oneself who whom whose which what whatever whoever
whichever somebody someone something anybody anyone anything everybody everyone everything there here
am is are was were be been being do does did doing done have has had having will would shall should can could may
might must ought let
of in on at by for from to into onto with within about above across after against along among amongst around as
before behind below beneath beside besides between beyond despite down during except inside like near off out
outside over past per since through throughout till toward towards under underneath until up upon via
and or but if because although though unless while whereas whether so than then
how when where why however therefore thus hence moreover furthermore meanwhile otherwise
also again already always almost too very quite rather just only even ever still yet now once soon often perhaps
maybe really else
i'm you're he's she's it's we're they're i've you've we've they've i'd you'd he'd she'd we'd they'd i'll you'll
he'll she'll we'll they'll that's there's here's what's who's where's how's let's
"""

_CHINESE = """
的 地 得 了 着 过 之 所 者 吗 呢 吧 啊 呀 哦 嘛 啦 哇 哪 么 罢了 而已 似的 一样 一般 我 你 您 他 她 它 咱 我们 你们
您们 他们 她们 它们 咱们 自己 大家 人家 别人 彼此 其 其他 其它 其中 其余 这 那 这个 那个 这些 那些 这里 那里 这儿 那儿
这样 那样 这么 那么 此 该 某 某个 某些 各 各个 每 每个 本 另 另外 有些 是 有 在 会 能 能够 可以 可能 可 应 应该
应当 要 想要 将 将要 让 使 使得 叫 被 把 给 令 得以 正在 正 曾 曾经 已 已经 从 自 自从 到 向 往 朝 于 对 对于 关于
至于 由 由于 用 以 按 按照 根据 依照 通过 经过 随着 为 为了 跟 同 与 和 及 以及 比 除 除了 除非 沿着 当 趁 因 因为
因此 因而 所以 于是 故 而 而且 并 并且 且 或 或者 还是 要么 不但 不仅 不过 但 但是 可是 然而 却 虽 虽然 尽管 即使 就算
哪怕 只要 只有 无论 不管 如果 假如 要是 若 倘若 既 既然 否则 那末 从而 以便 以致 也 都 就 才 还 又 再 很 太 更 最
非常 十分 比较 相当 极 极其 更加 越 越来越 稍 稍微 几乎 只 仅 仅仅 便 即 共 一共 总 总是 常 常常 经常 往往 一直 一向
始终 刚 刚刚 刚才 马上 立刻 先 后 然后 接着 最后 同时 现在 当时 起来 下去 出来 上来 下来 上 下 里 里面 中 内 外 间
之间 之前 之后 之中 以前 以后 以来 以上 以下 时 时候 个 些 种 次 位 一 一个 一些 一种 一下 一点 一次 什么 谁 哪个 哪些
哪里 哪儿 怎么 怎样 怎么样 如何 为什么 为何 多少 几 几个 多 等 等等 例如 比如 譬如 包括 即便 甚至
"""
ENGLISH = frozenset(_ENGLISH.split())
CHINESE = frozenset(_CHINESE.split())
WORDS = {"en": ENGLISH, "zh": CHINESE}


def remove_stop_words(text: str, *, languages: Sequence[Language], extra: Sequence[str], keep: Sequence[str]) -> str:
    """The text without stop words, in any case, each with one space after it; the rest stands as it was.

    languages: whose lists and segmenters are used, each on the text as it was. extra: more words to remove. keep: words
    of the lists that stay. Raises InputError for a language without a list.
    """
    found: list[tuple[int, int]] = []
    for language in languages:
        if language not in WORDS:
            raise InputError(
                f"clean.stop_words.languages: there is no list for {language}", f"there are: {', '.join(WORDS)}"
            )
        words = _chosen(language, tuple(extra), tuple(keep))
        for first, last in _segmenter(language).spans(text):
            if text[first:last].lower().replace("’", "'") in words:
                found.append((first, last + text.startswith(" ", last)))
    if not found:
        return text
    pieces, start = [], 0
    for first, last in sorted(found):
        pieces.append(text[start:first])  # nothing where the words of two languages overlap
        start = max(start, last)
    return "".join(pieces) + text[start:]


@cache
def _chosen(language: Language, extra: tuple[str, ...], keep: tuple[str, ...]) -> frozenset[str]:
    return (WORDS[language] | {word.lower() for word in extra}) - {word.lower() for word in keep}


@cache
def _segmenter(language: Language) -> Segmenter:
    if language == "zh":
        return ChineseWords(hmm=True, user_words=[])
    return EnglishWords(contractions="whole")
