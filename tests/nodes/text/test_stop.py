"""Stop strings give the same text under any chunking, and it is the text of the naive method."""

from hypothesis import given
from hypothesis import strategies as st

from nodes.text.stop import Scanner, Stops

LETTERS = "ab😀"
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=5), min_size=1, max_size=4)
PIECES = st.lists(st.text(LETTERS + "c", max_size=6), max_size=12)


def naive(text: str, stops: list[str], include: bool) -> tuple[str, str]:
    """The text and the stop string that ended it, looking at every beginning of the whole."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return (text[:end] if include else text[: end - len(longest)]), longest
    return text, ""


def scanned(pieces: list[str], stops: list[str], include: bool) -> tuple[str, str]:
    scanner, shown = Scanner(Stops(stops), include), ""
    for piece in pieces:
        shown += scanner.feed(piece)
        if scanner.matched >= 0:
            return shown, scanner.stop
    return shown + scanner.finish(), scanner.stop


@given(PIECES, STOPS, st.booleans())
def test_any_chunking_gives_the_naive_text(pieces: list[str], stops: list[str], include: bool) -> None:
    assert scanned(pieces, stops, include) == naive("".join(pieces), stops, include)


@given(PIECES, STOPS)
def test_no_more_is_held_back_than_may_become_a_stop(pieces: list[str], stops: list[str]) -> None:
    scanner, seen = Scanner(Stops(stops)), ""
    for piece in pieces:
        shown = scanner.feed(piece)
        if scanner.matched >= 0:
            return
        seen += piece
        ends = [seen[-size:] for size in range(1, len(seen) + 1)]
        longest = max((len(end) for end in ends if any(stop.startswith(end) for stop in stops)), default=0)
        assert scanner.held == longest
        assert seen.endswith(shown + seen[len(seen) - scanner.held :])


def test_a_stop_that_begins_within_its_own_beginning() -> None:
    """The automaton falls back twice at the sixth letter."""
    assert scanned(["aabaa", "abaac", "x"], ["aabaac"], False) == ("aaba", "aabaac")


def test_a_stop_that_is_complete_first_wins() -> None:
    assert scanned(["xab", "cd"], ["abcd", "b"], False) == ("xa", "b")


def test_of_stops_that_end_together_the_longest_wins() -> None:
    assert scanned(["xab"], ["b", "ab"], False) == ("x", "ab")


def test_an_unarmed_stop_is_text() -> None:
    scanner = Scanner(Stops(["END"]))
    shown = scanner.feed("aEND", armed=False)
    shown += scanner.feed("bENDc")
    assert (shown, scanner.stop) == ("aENDb", "END")


def test_a_stop_may_begin_while_unarmed() -> None:
    scanner = Scanner(Stops(["END"]))
    assert scanner.feed("aEN", armed=False) + scanner.feed("Dx") == "a"
    assert scanner.matched == 0


def test_finish_gives_back_what_was_held() -> None:
    scanner = Scanner(Stops(["abc"]))
    assert (scanner.feed("xab"), scanner.finish()) == ("x", "ab")
