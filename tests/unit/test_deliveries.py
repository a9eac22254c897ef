"""Result paths, and the book of what has been delivered to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.agent.task import TaskSpec, encode_task
from roomful.deliverer import printed_path
from roomful.deliveries import DeliveryBook, digest_of, read_result_paths
from roomful.errors import RoomfulError, TaskFileError
from roomful.records import Output
from roomful.settings import Settings


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, data: bytes) -> Path:
    path = folder / "paths.txt"
    path.write_bytes(data)
    return path


def test_paths_start_at_the_current_folder(here: Path) -> None:
    data = b"# result paths\nout/a\n\n./out//b\n/tmp/../tmp/c\nwith blank \nnot-utf8-\xff\n"
    assert read_result_paths(written(here, data), 5) == [
        here / "out" / "a", here / "out" / "b", Path("/tmp/c"), here / "with blank ", here / "not-utf8-\udcff",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a\n", "paths.txt: 1 result paths for 2 tasks; write one result path a line"),
        (b"a\nb\nc\n", "paths.txt: 3 result paths for 2 tasks"),
        (b"", "paths.txt: 0 result paths for 2 tasks"),
        (b"a\n./x/../a\n", "paths.txt:2: result path './x/../a' twice: it is on line 1 already"),
        (b"a\nfolder\n", "paths.txt:2: bad result path 'folder': it is a folder"),
        (b"a\nb/\n", "paths.txt:2: bad result path 'b/': it is a folder"),
        (b"a\n.\n", "paths.txt:2: bad result path '.': it is a folder"),
        (b"a\npaths.txt/b\n", "paths.txt is not a folder"),
        (b"a\npipe\n", "paths.txt:2: bad result path 'pipe': it is no regular file"),
        (b"a\nb\0c\n", "it holds a NUL byte"),
        (b"a\nb\r\n", "it ends with a carriage return"),
        (b"a/b\na\n", "another result path is below it"),
        (b"a\n" + b"x" * 300 + b"\n", "File name too long"),
    ],
)
def test_bad_paths_are_refused(here: Path, data: bytes, says: str) -> None:
    import os

    (here / "folder").mkdir()
    os.mkfifo(here / "pipe")
    with pytest.raises(TaskFileError) as caught:
        read_result_paths(written(here, data), 2)
    assert says in str(caught.value)


def test_a_missing_file_of_paths(here: Path) -> None:
    with pytest.raises(TaskFileError, match="nosuch: cannot read the result paths: No such file or directory"):
        read_result_paths(Path("nosuch"), 1)


def test_the_digest_is_of_what_a_task_does() -> None:
    base = digest_of(encode_task(TaskSpec("a")))
    assert digest_of(encode_task(TaskSpec("a", priority=5, cpus=2, timeout=3.0, name="n"))) == base
    assert digest_of(encode_task(TaskSpec("b"))) != base
    assert digest_of(encode_task(TaskSpec("a", cwd="x"))) != base


def test_a_batch_is_read_back_until_all_has_arrived(tmp_path: Path) -> None:
    book = DeliveryBook(Settings(root=tmp_path))
    paths = [tmp_path / "a\tb\nc", tmp_path / "é\udcff", tmp_path / "c"]
    batch = book.add(zip([5, 6, 6], ["d5", "d6", "d6"], paths, strict=True), as_files=True)
    assert book.batches() == [batch]
    assert [(item.task_id, item.path) for item in batch.pending] == list(zip([5, 6, 6], paths, strict=True))
    assert batch.as_files
    book.note(batch, [0, 2])
    book.finish(batch)
    [left] = book.batches()
    assert [(item.number, item.task_id, item.digest, item.path) for item in left.pending] == [(1, 6, "d6", paths[1])]
    book.note(left, [1])
    book.finish(left)
    assert book.batches() == []
    assert list(book.folder.iterdir()) == []


def test_a_note_that_was_cut_off_counts_as_not_made(tmp_path: Path) -> None:
    book = DeliveryBook(Settings(root=tmp_path))
    batch = book.add([(n, "d", tmp_path / str(n)) for n in range(30)], as_files=False)
    book.note(batch, range(20))
    arrived = batch.file.with_suffix(".arrived")
    arrived.write_bytes(arrived.read_bytes()[:-2])  # of "19" and its line end, "1" is left
    [left] = book.batches()
    assert [item.number for item in left.pending] == list(range(19, 30))


def test_a_later_batch_takes_over_its_paths(tmp_path: Path) -> None:
    book = DeliveryBook(Settings(root=tmp_path))
    book.add([(1, "d1", tmp_path / "a"), (2, "d2", tmp_path / "b")], as_files=False)
    book.add([(3, "d3", tmp_path / "b")], as_files=False)
    book.add([(4, "d4", tmp_path / "b")], as_files=False)
    assert [(item.task_id, item.path.name) for batch in book.batches() for item in batch.pending] == [
        (1, "a"),
        (4, "b"),
    ]


@pytest.mark.parametrize(
    "damage", [b"", b"{}\n", b"junk", b'{"version": 1, "as_files": false, "count": 2}\n1\td\t"/a"\n'],
    ids=["empty", "no head", "no JSON", "cut off"],
)  # fmt: skip
def test_a_damaged_batch_is_named(tmp_path: Path, damage: bytes) -> None:
    book = DeliveryBook(Settings(root=tmp_path))
    batch = book.add([(1, "d", tmp_path / "a")], as_files=False)
    batch.file.write_bytes(damage)
    with pytest.raises(RoomfulError, match="remove it: rm "):
        book.batches()


def output(head: bytes, tail: bytes = b"") -> Output:
    return Output(head, tail, len(head) + len(tail), "", "lab01")


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (output(b"out/a.txt\n"), "out/a.txt"),
        (output(b"working...\n  out/a b.txt \n\n \n"), "out/a b.txt"),
        (output(b"\xff.bin"), "\udcff.bin"),
        (output(b"x" * 100, b"much\nend.txt\n"), "end.txt"),
    ],
)
def test_the_last_line_that_a_task_prints_is_the_path(printed: Output, expected: str) -> None:
    assert printed_path(printed) == expected


@pytest.mark.parametrize("printed", [b"", b"\n \n", b"a\0b\n", b"x" * 5000])
def test_what_is_no_path_is_refused(printed: bytes) -> None:
    with pytest.raises(ValueError, match="path"):
        printed_path(output(printed))
