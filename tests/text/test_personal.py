"""URLs, addresses and numbers of people: found, and nothing else is. All numbers here are made up or test numbers."""

from __future__ import annotations

import pytest

from llmcli.errors import InputError

# test numbers that the card companies publish; IDs of invented people with a right check digit
CARD, ID = "4111 1111 1111 1111", "11010519491231002X"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("see https://a.org/x?y=1#z, or (HTTP://b.org/c_(d)).", "see <url>, or (<url>)."),
        ("请看https://a.cn/路径，谢谢；见www.b.cn。", "请看<url>路径，谢谢；见<url>。"),
        ("https://fr.example.org/Été [1](http://c.org) <ftp://d.org/f>", "<url> [1](<url>) <<url>>"),
        ("http:// nothing, xhttp://a.b, awww.b.c, http://...", "http:// nothing, xhttp://a.b, awww.b.c, http://..."),
        ("http://[::1]:80/ and www.a.com!", "<url> and <url>!"),
    ],
)
def test_urls(step, text, expected):
    assert step("urls")(text) == expected
    assert step("urls", replacement="")(text) == expected.replace("<url>", "")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("mail a.b+c@mail.example.com.", "mail <email>."),
        ("邮箱zhang_3@x.com.cn，谢谢", "邮箱<email>，谢谢"),
        ("@name, a@b, a@@b.com, a @ b.com", "@name, a@b, a@@b.com, a @ b.com"),
    ],
)
def test_emails(step, text, expected):
    assert step("emails")(text) == expected
    assert step("emails", replacement="X")(text) == expected.replace("<email>", "X")


@pytest.mark.parametrize(
    "text, expected",
    [
        (f"身份证{ID}，", "身份证<id>，"),
        (ID.lower(), "<id>"),
        ("110105194912310021", "110105194912310021"),  # wrong check digit
        ("110105194902310026", "110105194902310026"),  # no such day
        (f"card {CARD} 12/26", "card <card> 12/26"),
        ("4111111111111111, 4111-1111-1111-1111, 378282246310005, 3782 822463 10005", "<card>, <card>, <card>, <card>"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),  # fails the Luhn check
        ("6222 0212 3456 7890 128", "<card>"),
        ("手机13812345678或138 1234 5678、+86 138-1234-5678、86-13812345678", "手机<phone>或<phone>、<phone>、<phone>"),
        (
            "010-12345678, 010-62345678, (0755) 86543210, 0571 8765 4321",
            "010-12345678, <phone>, <phone>, <phone>",
        ),
        ("客服400-820-8820、4008-208-820", "客服<phone>、<phone>"),
        ("(555) 234-5678, 555-234-5678, 1-800-234-5678, 555.234.5678", "<phone>, <phone>, <phone>, <phone>"),
        ("+44 20 7946 0958, +49 (30) 901820, +1-212-555-0100", "<phone>, <phone>, <phone>"),
        ("192.168.0.1:80, 2001:db8::1, ::1, fe80::1", "<ip>:80, <ip>, <ip>, <ip>"),
        # not a person
        ("pi 3.14159265358979, 1381234567890 ms, 12345678901, 2026-11-22 10:31:07", None),
        ("v1.2.3.4, 1.2.3, 256.1.1.1, 1.2.3.4.5, a::b, std::face, 12:30:45", None),
        ("ISBN 978-3-16-148410-0, 1,000,000,000, x13812345678, 0.13812345678, 100000000000000000", None),
    ],
)
def test_numbers(step, text, expected):
    assert step("personal")(text) == (expected or text)


def test_kinds_and_replacement(step):
    text = f"{ID} {CARD} 13812345678 10.0.0.1"
    assert step("personal")(text) == "<id> <card> <phone> <ip>"
    assert step("personal", kinds=["phone"])(text) == f"{ID} {CARD} <phone> 10.0.0.1"
    assert step("personal", kinds=["ip", "id"])(text) == f"<id> {CARD} 13812345678 <ip>"
    assert step("personal", replacement="[{kind}]")(text) == "[id] [card] [phone] [ip]"
    assert step("personal", replacement="")(text) == "   "
    with pytest.raises(InputError, match=r"clean.personal.kinds: there is no kind name") as caught:
        step("personal", kinds=["name"])(text)
    assert caught.value.hint == "the kinds are: id, card, phone, ip"
