"""What is computed once is found again by what it depends on, and made again if it is damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unlabel.storage import cache


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Counting:
    """Reads, makes and writes numbers, and counts how often it made one."""

    def __init__(self) -> None:
        self.made = 0

    def make(self) -> int:
        self.made += 1
        return 7

    def get(self, entry: Path) -> int:
        return cache.get(
            entry,
            read=lambda path: int(path.read_text()),
            make=self.make,
            write=lambda value, path: path.write_text(str(value)),
        )


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Path) -> None:
    assert cache.root() == root
    monkeypatch.delenv("UNLABEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg/unlabel"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.root() == tmp_path / "home/.cache/unlabel"


def test_a_value_is_made_once() -> None:
    counting, entry = Counting(), cache.entry("numbers", cache.key("seven"))
    assert [counting.get(entry) for _ in range(3)] == [7, 7, 7]
    assert counting.made == 1


@pytest.mark.parametrize("content", [b"", b"no number", b"\xff\xfe"])
def test_a_damaged_entry_is_made_again_and_one_line_says_so(content: bytes) -> None:
    counting, entry = Counting(), cache.entry("numbers", cache.key("seven"))
    counting.get(entry)
    entry.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{entry} is damaged and is made again") as said:
        assert counting.get(entry) == 7
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert counting.get(entry) == 7  # whole again, and nothing is said
    assert counting.made == 2


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "file"))
    counting = Counting()
    assert [counting.get(cache.entry("numbers", "a")) for _ in range(2)] == [7, 7]
    assert counting.made == 2


def test_keys_tell_parts_and_their_borders_apart() -> None:
    keys = {cache.key(*parts) for parts in (("a", "b"), ("ab",), ("b", "a"), ("a", "b", ""), ("", "a", "b"), ())}
    assert len(keys) == 6
    assert all(len(key) == 32 for key in keys)
    cache.key("surrogates \udcff of undecodable names")


def test_a_changed_file_has_another_key(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    os.utime(path, ns=(0, 1))
    first = cache.of_file(path)
    assert cache.of_file(path) == first != cache.of_file(path, "option")
    os.utime(path, ns=(0, 2))
    assert cache.of_file(path) != first
    path.write_text("three")
    os.utime(path, ns=(0, 1))
    assert cache.of_file(path) != first
    (tmp_path / "link").symlink_to(path)
    assert cache.of_file(tmp_path / "link") == cache.of_file(path)


def test_what_is_kept_is_counted_by_owner_and_cleared_owner_by_owner(root: Path) -> None:
    assert cache.report() == []
    for owner, key, content in (("one", "a", "123"), ("one", "deep/b", "4567"), ("two", "c", "8")):
        with cache.saving(cache.entry(owner, key)) as aside:
            aside.write_text(content)
    assert cache.report() == [("one", 2, 7), ("two", 1, 1)]
    assert cache.clear("one") == ("one", 2, 7)
    assert cache.report() == [("two", 1, 1)]
    assert cache.clear("one") == ("one", 0, 0)


@pytest.mark.parametrize("owner", ["", "..", ".", "a/b", "/etc", "A", "a b", "-a", "a\n"])
def test_an_owner_is_a_plain_name_and_nothing_outside_is_cleared(root: Path, owner: str) -> None:
    root.mkdir()
    (root / "a").mkdir()
    with pytest.raises(ValueError, match="owner"):
        cache.clear(owner)
    with pytest.raises(ValueError, match="owner"):
        cache.entry(owner, "key")
    assert (root / "a").is_dir()


def test_a_link_in_place_of_an_owners_folder_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    root.mkdir()
    (root / "one").symlink_to(tmp_path / "precious")
    assert cache.report() == []
    with pytest.raises(OSError, match="symbolic link"):
        cache.clear("one")
    assert (tmp_path / "precious/file").exists()


# What others are given as a file


def read_words(path: Path) -> str:
    text = path.read_text()
    if not text.startswith("words"):
        raise ValueError("no words")
    return text


def write_words(path: Path) -> None:
    path.write_text("words: a b")


def test_a_file_is_written_once_and_again_when_it_is_damaged() -> None:
    entry, written = cache.entry("core", "a", ".txt"), []

    def write(path: Path) -> None:
        written.append(path)
        write_words(path)

    assert cache.file(entry, read=read_words, write=write) == entry
    assert cache.file(entry, read=read_words, write=write) == entry
    assert len(written) == 1
    entry.write_text("torn")
    with pytest.warns(UserWarning, match="damaged and is made again"):
        assert cache.file(entry, read=read_words, write=write) == entry
    assert entry.read_text() == "words: a b"


def test_a_file_is_there_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("no folder")
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "taken"))
    path = cache.file(cache.entry("core", "b", ".txt"), read=read_words, write=write_words)
    assert path.name == "b.txt"
    assert path.read_text() == "words: a b"
