"""The sieve and the noticeboard: two pure machines between what is seen and what the core is told."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mesh.core import Found, Lost, Remark
from mesh.discovery import sightings
from mesh.discovery.sightings import (
    REPEAT_S,
    STALE_S,
    SWEEP_S,
    Noticeboard,
    Sieve,
    file_of,
    is_sane,
    write,
)
from proto import limits
from proto.messages import Record

ME, YOU, HER = 1, 2, 3
TAG = b"tag12345"


def record(node: int, mesh: str = "lab", tag: bytes = TAG, beat: int = 1, port: int = 5) -> Record:
    return Record(node, mesh, tag, f"node {node}", 7, "host", [f"tcp://192.0.2.2:{port}"], [], False, beat)


def sieve() -> Sieve:
    return Sieve(ME, "lab", (TAG,))


def test_a_new_node_is_found_a_beat_is_no_news_a_change_is() -> None:
    board = sieve()
    assert board.see(record(YOU), 0.0) == [Found(record(YOU))]
    assert board.see(record(YOU, beat=2), 1.0) == []
    assert board.see(record(YOU, beat=3, port=6), 2.0) == [Found(record(YOU, beat=3, port=6))]
    assert board.see(record(YOU, beat=9, port=6), 2.0 + REPEAT_S) == [Found(record(YOU, beat=9, port=6))]
    assert board.see(record(ME), 3.0) == []


def test_what_is_still_seen_is_told_again() -> None:
    board = sieve()
    board.see(record(YOU), 0.0)
    assert board.repeat(REPEAT_S - 1) == []
    assert board.repeat(REPEAT_S) == [Found(record(YOU, beat=0))]
    assert board.repeat(REPEAT_S + 1) == []


def test_lost_is_told_once() -> None:
    board = sieve()
    board.see(record(YOU), 0.0)
    assert board.lose(YOU) == [Lost(YOU)]
    assert board.lose(YOU) == []


def test_other_meshes_are_counted_said_once_and_never_told() -> None:
    board = sieve()
    told = [board.see(record(node, mesh="other"), 0.0) for node in (YOU, HER)]
    [remark], again = told
    assert again == [] and isinstance(remark, Remark)
    assert "another mesh, 'other'" in remark.text
    [remark] = board.see(record(YOU, tag=b"another1"), 0.0)
    assert isinstance(remark, Remark) and "another key" in remark.text
    assert board.stats["foreign"] == 3
    assert len(board) == 0


def test_many_other_meshes_are_not_many_remarks() -> None:
    board = sieve()
    told = [remark for index in range(1000) for remark in board.see(record(YOU, mesh=f"m{index}"), 0.0)]
    assert len(told) == sightings.FOREIGN_MAX


def test_a_node_that_moved_to_another_mesh_is_lost() -> None:
    board = sieve()
    board.see(record(YOU), 0.0)
    assert board.see(record(YOU, mesh="other"), 1.0)[0] == Lost(YOU)


def test_a_flood_is_bounded() -> None:
    board = sieve()
    told = [outcome for node in range(2, limits.RECORDS_MAX + 100) for outcome in board.see(record(node), 0.0)]
    assert sum(isinstance(outcome, Found) for outcome in told) == limits.RECORDS_MAX
    assert sum(isinstance(outcome, Remark) for outcome in told) == 1
    assert board.stats["flood"] == 98


def test_a_record_must_lead_somewhere() -> None:
    sane = record(YOU)
    assert is_sane(sane)
    for address in (
        "",
        "tcp://0.0.0.0:5",
        "tcp://[::]:5",
        "tcp://[fe80::1%eth0]:5",
        "tcp://a",
        "ipc://@x",
        "udp://a:5",
    ):
        assert not is_sane(replace(sane, addresses=[address])), address
    assert not is_sane(replace(sane, addresses=[]))
    assert not is_sane(replace(sane, node=0))
    assert not is_sane(replace(sane, boot=2**64)), "JSON can hold it, the wire cannot"
    assert is_sane(replace(sane, addresses=["tcp://[fd00::2]:5", "tcp://a-b.example:5", "ipc:///run/a b"[:-2]]))


# --- The noticeboard ------------------------------------------------------------------------------------


class Folder:
    """A directory in memory, read the way the shell reads one."""

    def __init__(self) -> None:
        self.board = Noticeboard(sieve())
        self.files: dict[str, tuple[int, bytes]] = {}

    def put(self, name: str, mark: int, content: bytes) -> None:
        self.files[name] = (mark, content)

    def scan(self, now: float) -> list[object]:
        outcomes, names = self.board.look({name: mark for name, (mark, _) in self.files.items()}, now)
        for name in names:
            outcomes += self.board.read(name, *self.files[name], now)
        more, remains = self.board.settle(now)
        for name in remains:
            del self.files[name]
        return [*outcomes, *more]


def test_a_file_is_found_and_its_removal_is_a_loss() -> None:
    folder = Folder()
    folder.put(file_of(YOU), 1, write(record(YOU)))
    folder.put(file_of(ME), 2, write(record(ME)))
    assert folder.scan(0.0) == [Found(record(YOU))]
    assert folder.scan(0.1) == []
    del folder.files[file_of(YOU)]
    assert folder.scan(0.2) == [Lost(YOU)]


def test_a_beating_file_lives_for_ever_and_a_silent_one_is_lost_then_swept() -> None:
    folder = Folder()
    lost_at = swept_at = 0.0
    for second in range(0, 300, 2):
        folder.put(file_of(YOU), second, write(record(YOU, beat=second)))
        if second == 0:
            folder.put(file_of(HER), 1, write(record(HER)))
        outcomes = folder.scan(float(second))
        assert Lost(YOU) not in outcomes
        if Lost(HER) in outcomes:
            assert not lost_at
            lost_at = float(second)
        if file_of(HER) not in folder.files and not swept_at:
            swept_at = float(second)
    assert (lost_at, swept_at) == (STALE_S, SWEEP_S)


def test_a_stale_node_that_beats_again_is_found_again() -> None:
    folder = Folder()
    folder.put(file_of(YOU), 1, write(record(YOU)))
    folder.scan(0.0)
    assert Lost(YOU) in folder.scan(STALE_S)
    folder.put(file_of(YOU), 2, write(record(YOU, beat=2)))
    assert folder.scan(STALE_S + 1) == [Found(record(YOU, beat=2))]


def test_who_was_frozen_reads_before_it_judges() -> None:
    folder = Folder()
    folder.put(file_of(YOU), 1, write(record(YOU)))
    folder.scan(0.0)
    folder.put(file_of(YOU), 2, write(record(YOU, beat=99)))
    assert not any(isinstance(outcome, Lost) for outcome in folder.scan(1000.0))


def test_a_change_shows_without_a_new_inode() -> None:
    folder = Folder()
    folder.put(file_of(YOU), 1, write(record(YOU)))
    folder.scan(0.0)
    folder.put(file_of(YOU), 1, write(record(YOU, beat=2, port=9)))
    assert folder.scan(1.0) == []
    assert folder.scan(sightings.REREAD_S) == [Found(record(YOU, beat=2, port=9))]


def test_junk_is_counted_and_only_remains_of_ours_are_swept() -> None:
    folder = Folder()
    folder.put(file_of(YOU), 1, b"{ not json")
    folder.put(file_of(HER), 1, write(record(YOU)))  # another node's record under her name
    folder.put(file_of(4), 1, b"")
    folder.put(file_of(5), 1, write(record(5))[:-4])
    folder.put(file_of(6), 1, b"[" * 100_000)
    folder.put(file_of(7), 1, b"[" * 5_000)
    folder.put("README", 1, b"hello")
    assert folder.scan(0.0) == []
    assert folder.board.sieve.stats["junk"] == 6
    folder.scan(SWEEP_S)
    assert sorted(folder.files) == sorted([file_of(YOU), file_of(HER), file_of(5), file_of(6), file_of(7), "README"])


def test_the_mesh_next_door_in_one_directory() -> None:
    folder = Folder()
    folder.put(file_of(YOU), 1, write(record(YOU, mesh="other")))
    [remark] = folder.scan(0.0)
    assert isinstance(remark, Remark)
    folder.put(file_of(YOU), 2, write(record(YOU, mesh="other", beat=2)))
    assert folder.scan(2.0) == []


@given(st.binary(max_size=200) | st.builds(lambda n: write(record(YOU))[:n], st.integers(0, 80)))
def test_any_content_is_found_or_junk(content: bytes) -> None:
    folder = Folder()
    folder.put(file_of(YOU), 1, content)
    outcomes = folder.scan(0.0)
    assert len(outcomes) + folder.board.sieve.stats["junk"] + folder.board.sieve.stats["foreign"] >= 1
