"""What an inspection warns of, with exact counts and first lines, and what it leaves alone."""

import json
from typing import Any

import pytest

from core.domain import inspections, repeats
from core.domain.datasets import MAX_LINES, DatasetFinding


def line(instruction: str, output: str, **more: Any) -> str:
    return json.dumps({"instruction": instruction, "input": "", "output": output} | more, ensure_ascii=False)


def warned(*lines: str) -> dict[str, DatasetFinding]:
    found = inspections.inspect(["\n".join(lines).encode()])
    assert found.is_acceptable, found.findings
    assert found.summary.warnings == len(found.findings)
    assert {finding.severity for finding in found.findings} <= {"warning"}
    return {finding.code: finding for finding in found.findings}


def answers(*texts: str) -> list[str]:
    return [line(f"question {number}", text) for number, text in enumerate(texts)]


CLEAN = (
    "« L\u2019été à Noël\u00a0»\u00a0: où êtes-vous allé\u00a0? «\u00a0Là-bas, chez l\u2019abbé\u00a0», dit-elle… 5\u00a0€, 3\u00a0½ heures.",
    "Âge, Ânes, CHÂTEAU «\u00a0Â\u00a0»\u00a0; MAÇÃ, NÃO, IRMÃ\u00a0: “coração” é “isso”, à “â”…",
    "Größe: 5\u00a0€ – „hübsch“, Straße 5½ – 3\u00a0°C, © 2020, naïve façade, ¿qué? ¡sí! µm²",
    "中文，没有问题。“引号”……——《书名》；烫烫烫！用锛子刨木头：¥100。",
    "日本語のテキスト。「ありがとう」ございます、ＡＢＣ。",
    "Жизнь прекрасна — «да». Việt Nam: Ấ, Ẫ, “Ă”… Türkçe: â, î, û. العربية\u200f\u200e می\u200cخواهم",
    "👩\u200d🚀 ❤\ufe0f naïve ï» x\u00adx\n\tif a < b and c[0] > d: print('<b>[1]</b>')\r\n",
    "".join(bytes((high, low)).decode("gb2312") for high in range(0xB0, 0xD7) for low in range(0xA1, 0xFA)),
)


@pytest.mark.parametrize("text", CLEAN)
def test_clean_text_of_many_languages_is_left_alone(text: str) -> None:
    assert set(warned(line(text, f"{text}!"))) == set()


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "gbk"])
@pytest.mark.parametrize("text", ["你好，世界。", "it\u2019s “quoted” — so", "中文。", "，", "日本語、"])
def test_text_read_in_another_encoding_is_warned_of(text: str, encoding: str) -> None:
    garbled = text.encode().decode(encoding, errors="replace")

    assert "garbled_text" in warned(line("q", garbled))


@pytest.mark.parametrize(
    "text", ["CafÃ©", "voilÃ\u00a0 tout", "5Â°C", "Â£5", "锟斤拷", "a\ufffdb", "\ufffd\ufffd\ufffd"]
)
def test_well_known_garble_is_warned_of(text: str) -> None:
    assert set(warned(line("q", text))) == {"garbled_text"}


@pytest.mark.parametrize("character", ["\u200b", "\u2060", "a\ufeff", "\u202a", "\u202e", "\u2066", "\u2069"])
def test_invisible_characters_are_warned_of(character: str) -> None:
    assert set(warned(line("q", f"a{character}b"))) == {"invisible_characters"}


@pytest.mark.parametrize("character", ["\x1b[31m", "\x01", "\x7f", "\x80", "\x9f", "\x0c"])
def test_control_characters_are_warned_of(character: str) -> None:
    assert set(warned(line(f"a{character}b", "c"))) == {"control_characters"}


@pytest.mark.parametrize("space", [" ", "\n", "\t", "\r\n", "\u3000", "\u00a0"])
def test_an_answer_that_ends_in_white_space_is_warned_of(space: str) -> None:
    assert set(warned(line(f"q{space}", f"{space}a{space}"))) == {"space_after_answer"}


def test_a_warning_counts_every_row_once_and_names_the_first_lines() -> None:
    texts = [f"</s>{number}<s>" if number % 3 == 1 else f"fine {number}" for number in range(9000)]

    [warning] = warned(*(line(f"<s>{text}" if "<" in text else text, text) for text in texts)).values()

    assert (warning.code, warning.count, warning.line) == ("control_token_in_text", 3000, 2)
    assert warning.lines == tuple(range(2, 2 + 3 * MAX_LINES, 3))
    assert warning.message.startswith("3000 rows with")


def test_oddities_in_any_turn_of_long_conversations_are_found() -> None:
    history = [["a", "b"], ["c\u200b", "d"]]
    rows = [line("q", "r"), line("e", "f", history=history), line("g\x01", "h", history=[["i", "j"]]), line("k", "l ")]

    found = warned(*rows)

    assert {code: warning.lines for code, warning in found.items()} == {
        "invisible_characters": (2,),
        "control_characters": (3,),
        "space_after_answer": (4,),
    }


def test_rows_of_an_array_on_one_line_are_named_by_number() -> None:
    rows = json.dumps([{"instruction": str(number), "output": f"{number}"} for number in (1, 2, 1, 3, 2)]).encode()

    [warning] = inspections.inspect([rows]).findings

    assert (warning.code, warning.lines, warning.count) == ("duplicate_rows", (1,), 2)
    assert warning.message.endswith(" Rows 3, 5.")


def test_prompts_with_several_answers_are_counted_as_the_tutorials_are() -> None:
    """Its data: 3,729 rows, 3,617 different, 3,491 instructions, of which 50 have several answers in 238 rows."""
    rows = [line("你是谁？", "我是甄嬛。")] * 50 + [line("你是干什么的？", "我是皇帝身边的女人。")] * 50
    rows += [line(f"prompt {group}", f"answer {number}") for group in range(38) for number in range(3)]
    rows += [line(f"prompt {group}", f"answer {number}") for group in range(38, 49) for number in range(10)]
    rows += [line("last", answer) for answer in ("x", *"abcdefghijklm")]
    rows += [line(f"alone {number}", f"answer of {number}") for number in range(3729 - len(rows) - 14)]
    rows += rows[100:114]

    found = inspections.inspect(["\n".join(rows).encode()])

    told = {finding.code: finding for finding in found.findings}
    assert (found.summary.rows, found.summary.duplicates) == (3729, 112)
    assert found.summary.prompts == len({json.loads(row)["instruction"] for row in rows})
    assert "(50 prompts)" in told["several_answers"].message
    assert told["several_answers"].count == 238 + 14
    assert told["several_answers"].lines == (101, 102, 103)
    assert told["duplicate_rows"].lines == tuple(range(2, 12))


def test_one_answer_to_many_prompts_is_warned_of() -> None:
    rows = answers(*["I can't help."] * 30, *(f"answer {number}" for number in range(300)))

    [warning] = warned(*rows).values()

    assert (warning.code, warning.count, warning.lines) == ("same_answer_to_many", 30, tuple(range(1, 11)))
    assert "answers 30 different prompts" in warning.message


@pytest.mark.parametrize("times", [1, 9])
def test_one_answer_to_a_few_prompts_is_fine(times: int) -> None:
    assert warned(*answers(*["嗻。"] * times, *(f"answer {number}" for number in range(100)))) == {}


def test_a_handful_of_answers_to_everything_is_warned_of() -> None:
    [warning] = warned(*answers(*["yes", "no"] * 100)).values()

    assert (warning.code, warning.count) == ("few_different_answers", 200)
    assert "2 different answers, of 2 characters" in warning.message


def test_inputs_that_some_rows_lack_are_warned_of() -> None:
    rows = [
        line("a", "b"),
        '{"instruction":"c","input":"","output":"d"}',
        '{"instruction": "e", "input" :  "", "output": "f"}',
    ]

    assert warned(*rows) == {}
    warning = warned(*rows, line("g", "h", input="i"), line('"input": ""', 'say "input":""', input='"":""'))[
        "empty_inputs"
    ]
    assert (warning.count, warning.lines) == (3, (1, 2, 3))
    assert warning.message.startswith("3 rows of 5")


def test_rows_beyond_those_compared_are_said_not_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "COMPARED_ROWS", 2048)
    found = inspections.inspect(["\n".join([line("a", "b")] * 5000).encode()])

    [warning] = found.findings
    assert (found.summary.rows, found.summary.compared_rows, found.summary.duplicates) == (5000, 2048, 2047)
    assert "2047 rows of 2048 the same as an earlier one among the first 2048" in warning.message
