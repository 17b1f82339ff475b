import itertools

from core.domain import inspections
from core.domain.columns import MAX_TUPLES, Columns
from core.domain.rows import UNREAD, format_of
from tests.support.streams import cut

FIELDS = ("instruction", "output", "input")


def tuples() -> list[tuple[str, ...]]:
    """Far more tuples than are kept, each of a row that is fine."""
    extra = sorted(UNREAD)[:13]
    sets = (some for size in range(len(extra) + 1) for some in itertools.combinations(extra, size))
    return [(*FIELDS[: 2 + place % 2], *some) for place, some in enumerate(sets)]


def test_what_is_kept_does_not_grow_with_the_rows() -> None:
    columns, most = Columns(), 0
    for number, names in enumerate(tuples()):
        columns.meet(names, number, number + 1)
        columns.count(names, 2)
        most = max(most, columns.size)

    assert len(tuples()) == 2**13 > 4 * MAX_TUPLES
    assert most <= MAX_TUPLES + 1 + len(FIELDS) + 2 * 13
    assert columns.formats()["alpaca"].rows == 2 * 2**13


def test_the_tally_is_the_same_as_by_hand() -> None:
    given = tuples()
    columns = Columns()
    for number, names in enumerate(given):
        columns.meet(names, number, number + 1)
        columns.count(names, number % 3 + 1)

    def by_hand(field: str) -> tuple[int, int]:
        places = [place for place, names in enumerate(given) if field in names]
        return sum(place % 3 + 1 for place in places), places[0]

    assert {name: (seen.rows, seen.first[0][0]) for name, seen in columns.columns().items()} == {
        name: by_hand(name) for name in dict.fromkeys(name for names in given for name in names)
    }
    assert columns.unread().keys() == {name for names in given for name in names} - set(FIELDS)
    assert columns.unread()["id"].rows == by_hand("id")[0]


def test_a_file_with_another_set_of_fields_in_each_row_has_a_true_summary() -> None:
    given = tuples()
    rows = ["{" + ", ".join(f'"{name}": "x"' for name in names) + "}\n" for names in given]

    found = inspections.inspect(cut("".join(rows).encode()))

    assert found.is_acceptable
    assert (found.summary.rows, found.summary.formats) == (len(given), {"alpaca": len(given)})
    assert set(found.summary.columns) == {name for names in given for name in names}
    assert format_of.cache_info().currsize <= 1024
