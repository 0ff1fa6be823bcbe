"""Any folder, zip or npz becomes a dataset of one kind of file; labels and splits are recognised, never required."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pings import PINGS, Pings, archive, names, ping, shown, tree

from unlabel.data.sources import archives, folders, layout, listing, reading
from unlabel.data.sources.kind import Kind
from unlabel.data.sources.names import Names, natural
from unlabel.errors import BadSample, UsageError

SPLIT = [f"{part}/{name}/{n}.ping" for part in ("train", "test") for name in ("cat", "dog") for n in range(3)]

# Files of a folder


def test_samples_are_the_files_in_order_of_their_paths(tmp_path: Path) -> None:
    files = ["b/2.ping", "a.ping", "b/1.ping", "c/d/e/3.PING"]
    dataset = Pings(tree(tmp_path, *files))
    assert names(dataset) == [str(tmp_path / name) for name in sorted(files)]
    assert shown(dataset) == [files.index(name) for name in sorted(files)]
    assert all(set(dataset[index]) == {"ping"} for index in range(4))


def test_hidden_files_and_other_files_are_left_out_and_counted(tmp_path: Path) -> None:
    tree(tmp_path, "a.ping", ".hidden.ping", ".git/b.ping", "__MACOSX/c.ping", "notes.txt", "more.txt", "table.csv")
    dataset = Pings(tmp_path)
    assert len(dataset) == 1
    assert dataset.info()["ignored"] == {".txt": 2, ".csv": 1}


def test_files_without_an_ending_are_judged_by_content(tmp_path: Path) -> None:
    tree(tmp_path, "a.ping", "README", "LICENSE")
    (tmp_path / "0af3").write_bytes(ping(7))
    assert shown(Pings(tmp_path)) == [7, 0]
    unseeing = Kind("ping", "pings", PINGS.endings, ".ping")
    assert folders.scan(tmp_path, unseeing) == (["a.ping"], {"": 3})


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    elsewhere = tree(tmp_path / "elsewhere", "x.ping")
    root = tree(tmp_path / "root", "a/1.ping", "b/2.ping")
    (root / "linked").symlink_to(elsewhere, target_is_directory=True)
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    (root / "0").symlink_to(root / "b", target_is_directory=True)  # sorts first, yet the real folder is preferred
    (root / "dangling.ping").symlink_to(root / "absent.ping")
    (root / "file.ping").symlink_to(root / "a/1.ping")
    assert folders.scan(root, PINGS)[0] == ["a/1.ping", "b/2.ping", "file.ping", "linked/x.ping"]


def test_undecodable_names_can_be_read_and_printed(tmp_path: Path) -> None:
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.ping", "wb") as file:
            file.write(ping(1))
    except OSError:
        pytest.skip("this file system takes no such names")
    dataset = pickle.loads(pickle.dumps(Pings(tmp_path)))
    assert shown(dataset) == [1]
    assert json.dumps(dataset.name_of(0)).encode("ascii")
    dataset.name_of(0).encode("utf-8")


def test_what_cannot_be_decoded_is_a_bad_sample(tmp_path: Path) -> None:
    (tmp_path / "a.ping").write_bytes(b"pong")
    with pytest.raises(BadSample, match="no ping"):
        Pings(tmp_path)[0]


def test_a_file_that_says_it_is_huge_takes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.ping").open("wb") as file:
        file.truncate(reading.LARGEST + 1)  # a hole: no disk either
    with pytest.raises(BadSample, match="2,147,483,649 bytes, more than"):
        Pings(tmp_path)[0]


def test_copies_for_loader_processes_are_small(tmp_path: Path) -> None:
    for n in range(2000):
        path = tmp_path / f"{n % 7}/{n:05d}.ping"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert len(pickle.dumps(Pings(tmp_path))) / 2000 < 30  # bytes a sample: its name, its end, its label


def test_numbers_in_names_are_ordered_as_numbers() -> None:
    ordered = ["1²", "2", "a10b2", "a10b11", "a-2.ping", "a-10.ping", "b"]
    assert sorted(["b", *ordered[:-1][::-1]], key=natural) == ordered


def test_names_that_lead_out_of_a_folder_are_recognised(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "a/1.ping")
    (tmp_path / "link").symlink_to(root)
    assert folders.inside(root, "a/1.ping") == root / "a/1.ping"
    assert folders.inside(root, "x/../a/1.ping") == root / "a/1.ping"
    assert folders.inside(root, str(root / "a/1.ping")) == root / "a/1.ping"
    assert folders.inside(tmp_path / "link", str(root / "a/1.ping")) == tmp_path / "link/a/1.ping"
    for name in ("..", "../root2/a", "a/../../b", "/etc/passwd", ".", "", "../root"):
        assert folders.inside(root, name) is None


# What folders mean


def test_without_classes_everything_trains_and_nothing_is_held_out(tmp_path: Path) -> None:
    dataset = Pings(tree(tmp_path, *[f"{n}.ping" for n in range(10)]))
    assert dataset.labels is None
    assert len(dataset.split("train")) == 10
    assert dataset.split("test") is None
    assert dataset.split("val") is None


def test_class_folders_become_labels_and_a_stratified_holdout(tmp_path: Path) -> None:
    files = [f"{c}/{sub}/{n}.ping" for c, count in (("cat", 10), ("dog", 20)) for sub in "xy" for n in range(count)]
    dataset = Pings(tree(tmp_path, *files), holdout=0.25)
    assert dataset.classes == ("cat", "dog")
    for index in range(len(dataset)):
        assert dataset.classes[dataset[index]["label"]] in dataset.name_of(index)
    train, test = dataset.split("train"), dataset.split("test")
    assert np.bincount(test.labels).tolist() == [5, 10]
    assert sorted(names(train) + names(test)) == names(dataset)
    assert names(Pings(tmp_path, holdout=0.25).split("test")) == names(test)
    assert Pings(tmp_path, holdout=0).split("test") is None
    with pytest.raises(UsageError, match=r"holdout 1 is outside \[0, 1\)"):
        Pings(tmp_path, holdout=1)


def test_train_and_test_folders_become_splits(tmp_path: Path) -> None:
    dataset = Pings(tree(tmp_path, *SPLIT))
    train, test = dataset.split("train"), dataset.split("test")
    assert ["/train/" in name for name in names(train)] == [True] * 6
    assert ["/test/" in name for name in names(test)] == [True] * 6
    assert dataset.classes == ("cat", "dog")
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "Test", "testing"])
def test_either_validation_or_test_is_held_out(tmp_path: Path, held_out: str) -> None:
    dataset = Pings(tree(tmp_path, "Train/1.ping", "Train/2.ping", f"{held_out}/3.ping"))
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (2, 1)


def test_test_goes_before_validation_and_validation_never_trains(tmp_path: Path) -> None:
    dataset = Pings(tree(tmp_path, "train/1.ping", "val/2.ping", "val/3.ping", "test/4.ping"))
    assert dataset.split("train").name_of(0).endswith("train/1.ping")
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (1, 1)
    assert dataset.info()["splits"] == {"train": 1, "val": 2, "test": 1}


def test_files_beside_the_parts_are_left_out_and_counted(tmp_path: Path) -> None:
    dataset = Pings(tree(tmp_path, "train/1.ping", "test/2.ping", "3.ping", "other/4.ping"))
    assert shown(dataset) == [1, 0]
    assert dataset.info()["notes"] == ["2 pings lie outside the train and test folders and are left out"]


def test_wrapping_folders_are_stepped_into(tmp_path: Path) -> None:
    dataset = Pings(tree(tmp_path, *[f"my data/v2/{name}" for name in SPLIT]))
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.split("test")) == 6


def test_unlabelled_test_folder_gives_way_to_a_holdout_from_training(tmp_path: Path) -> None:
    files = [f"train/{name}/{n}.ping" for name in ("cat", "dog") for n in range(5)] + ["test/1.ping", "test/2.ping"]
    dataset = Pings(tree(tmp_path, *files))
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (8, 2)
    assert all("/train/" in name for name in names(dataset))
    assert "2 pings of test" in dataset.info()["notes"][0]


def test_files_beside_class_folders_leave_the_set_unlabelled_and_say_so(tmp_path: Path) -> None:
    dataset = Pings(tree(tmp_path, "cat/1.ping", "cat/2.ping", "dog/1.ping", "dog/2.ping", "preview.ping"))
    assert dataset.labels is None
    assert len(dataset) == 5
    assert "1 pings lie beside the 2 folders" in dataset.info()["notes"][0]


def test_a_folder_for_each_file_is_no_class(tmp_path: Path) -> None:
    assert Pings(tree(tmp_path, *[f"{n}/ping.ping" for n in range(5)])).labels is None


def test_layout_of_a_million_names_is_quick_to_read() -> None:
    files = [f"train/{n % 1000:04d}/{n:07d}.ping" for n in range(100_000)] + ["val/0001/1.ping"]
    start = time.process_time()
    seen = layout.read(files)
    assert time.process_time() - start < 1.0  # 0.1 s on an idle core
    assert seen.classes is not None
    assert seen.labels is not None
    assert len(seen.classes) == 1000
    assert seen.labels[:3].tolist() == [0, 1, 2]


# Zip archives


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_is_as_good_as_the_folder_it_was_made_of(tmp_path: Path, compression: int) -> None:
    loose = Pings(tree(tmp_path / "loose", *SPLIT))
    packed = Pings(archive(tmp_path / "packed.zip", SPLIT, compression))
    assert packed.classes == loose.classes
    np.testing.assert_array_equal(packed.labels, loose.labels)
    np.testing.assert_array_equal(packed.parts, loose.parts)
    assert shown(packed) == shown(loose)
    assert [name.removeprefix(f"{tmp_path}/packed.zip") for name in names(packed)] == [
        name.removeprefix(f"{tmp_path}/loose") for name in names(loose)
    ]


def test_zip_members_of_macs_and_windows(tmp_path: Path) -> None:
    members = ["data\\cat\\1.ping", "__MACOSX/data/._1.ping", "data/.DS_Store.ping", "data/2.ping"]
    dataset = Pings(archive(tmp_path / "a.zip", members))
    assert [Path(name).name for name in names(dataset)] == ["2.ping", "1.ping"]


def test_zip_with_something_before_it(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ["1.ping", "2.ping"], zipfile.ZIP_DEFLATED)
    path.write_bytes(b"#!/bin/sh\n" * 100 + path.read_bytes())  # a self-extracting archive
    assert shown(Pings(path)) == [0, 1]


def test_damaged_zip_members_are_bad_samples(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ["1.ping", "2.ping"], zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    start = 30 + len("1.ping")  # of the first member's content
    for damaged in (b"\xff\xff\xff\xff", content[start : start + 1] + b"\x00" * 3):
        path.write_bytes(content[:start] + damaged + content[start + 4 :])
        dataset = Pings(path)
        with pytest.raises(BadSample, match="damaged zip member"):
            dataset[0]
        assert dataset[1]["ping"] == 1


def declared(path: Path, old: tuple[int, int], new: tuple[int, int]) -> None:
    """Have the directory of an archive say another (packed, unpacked) size of a member."""
    content = path.read_bytes()
    sizes = [b"".join(size.to_bytes(4, "little") for size in pair) for pair in (old, new)]
    place = content.rindex(sizes[0])  # the directory is last
    path.write_bytes(content[:place] + sizes[1] + content[place + 8 :])


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((None, 5), "longer than the 5 bytes it declares"),
        ((None, 2**32 - 2), "more than"),
        ((2**32 - 2, None), "more than"),
    ],
)
def test_zip_members_take_no_more_memory_than_they_declare_and_declare_no_more_than_there_is(
    tmp_path: Path, size: tuple[int | None, int | None], reason: str
) -> None:
    """A bomb of which a thousandth is packed, and sizes that would take memory before anything is read."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb.ping", b"ping" * 250_000)
    [member] = archives.zip_members(path)
    packed = member.compress_size
    assert packed < 5000
    declared(path, (packed, 1_000_000), (size[0] or packed, size[1] or 1_000_000))
    with pytest.raises(BadSample, match=reason):
        Pings(path)[0]


def test_zip_members_that_lead_elsewhere_are_left_out(tmp_path: Path) -> None:
    dataset = Pings(archive(tmp_path / "a.zip", ["../../1.ping", "a/../../2.ping", "a/3.ping"]))
    assert shown(dataset) == [2]


def test_cut_and_encrypted_zips_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ["1.ping"])
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UsageError, match=r"cut\.zip is not a readable zip archive"):
        Pings(tmp_path / "cut.zip")
    secret = path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    (tmp_path / "secret.zip").write_bytes(secret)
    with pytest.raises(UsageError, match="encrypted"):
        Pings(tmp_path / "secret.zip")
    with pytest.raises(UsageError, match="not deflate: unpack it first"):
        Pings(archive(tmp_path / "other.zip", ["1.ping"], zipfile.ZIP_LZMA))


def test_zip_reading_survives_a_fork_and_a_copy(tmp_path: Path) -> None:
    dataset = Pings(archive(tmp_path / "a.zip", [f"{n:02d}.ping" for n in range(20)]))
    dataset[0]  # opens the file
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.source.handles.opened == {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forking a process that has threads
        child = os.fork()
    if child == 0:
        os._exit(int(shown(dataset) != list(range(20))))
    assert shown(dataset) == shown(copy) == list(range(20))
    assert os.waitpid(child, 0)[1] == 0


# Open files


def test_few_files_stay_open(tmp_path: Path) -> None:
    handles = reading.Handles(limit=3)
    for number in range(10):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 5)
    for number in [*range(10), *range(10)]:
        assert handles.read(str(tmp_path / str(number)), 1, 3) == bytes([number]) * 3
        assert len(handles.opened) <= 3


@pytest.mark.slow
def test_open_files_are_closed_and_say_nothing_whatever_ends_them(tmp_path: Path) -> None:
    """A file that lets go, one that cannot be opened, and the interpreter's end with one still open."""
    (tmp_path / "a").write_bytes(b"12345")
    program = f"""
import builtins, os
from unlabel.data.sources.reading import Handles
builtins.kept = handles = Handles()
handles.read({str(tmp_path / "a")!r}, 0, 5)
number = handles.opened[{str(tmp_path / "a")!r}].number
handles.opened.clear()
try:
    os.fstat(number)
except OSError:
    print("closed")
handles.read({str(tmp_path / "a")!r}, 0, 5)
try:
    handles.read({str(tmp_path / "none")!r}, 0, 5)
except FileNotFoundError:
    print("missing")
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (answer.stdout.split(), answer.stderr) == (["closed", "missing"], "")


def test_many_names_are_as_they_were() -> None:
    given = ["", "a", "b/\udcff.ping", "é", ""]
    kept = pickle.loads(pickle.dumps(Names(given)))
    assert [kept[index] for index in range(len(kept))] == given


# Arrays


def rows(count: int, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def files_npz(path: Path, numbers: list[int], **more: np.ndarray) -> Path:
    files = [ping(number) for number in numbers]
    offsets = np.cumsum([0] + [len(file) for file in files])
    np.savez(path, files=np.frombuffer(b"".join(files), np.uint8), offsets=offsets, **more)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_stacked_samples(tmp_path: Path, save: object) -> None:
    content = rows(6)
    save(tmp_path / "a.npz", pings=content, labels=np.array([[3], [3], [7], [7], [3], [7]]))  # type: ignore[operator]
    dataset = pickle.loads(pickle.dumps(Pings(tmp_path / "a.npz", holdout=0.34)))
    np.testing.assert_array_equal(np.stack(shown(dataset)), content)
    assert dataset.classes == ("3", "7")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 0, 1]
    assert len(dataset.split("test")) == 2


def test_uncompressed_npz_is_mapped_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pings=rows(4))
    dataset = Pings(tmp_path / "a.npz")
    dataset[0]
    assert isinstance(dataset.source.tables[0].opened, np.memmap)
    assert dataset.source.tables[0].opened.flags.writeable is False


def test_npz_of_files_split_in_two(tmp_path: Path) -> None:
    classes = np.array(["cat", "dog", "elk"])
    files_npz(tmp_path / "train.npz", [0, 1, 2, 3], labels=np.array([2, 0, 2, 1], np.uint8), classes=classes)
    files_npz(tmp_path / "test.npz", [4, 5], labels=np.array([0, 0], np.uint8), classes=classes)
    dataset = Pings(tmp_path)
    assert dataset.classes == ("cat", "dog", "elk")
    train, test = dataset.split("train"), dataset.split("test")
    assert (shown(train), shown(test)) == ([0, 1, 2, 3], [4, 5])
    assert train.labels.tolist() == [2, 0, 2, 1]
    assert "train.npz:files[2]" in train.name_of(2)


def test_npz_arrays_may_carry_the_part_in_their_name(tmp_path: Path) -> None:
    arrays = {"x_train": rows(5), "y_train": np.arange(5) % 2}
    arrays |= {"x_test": np.ones((3, 8), np.float32), "y_test": np.array([1, 0, 1])}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    dataset = Pings(tmp_path / "a.npz")
    test = dataset.split("test")
    assert [float(row.max()) for row in shown(test)] == [1, 1, 1]
    assert test.labels.tolist() == [1, 0, 1]
    assert len(dataset.split("train")) == 5


def test_npz_with_objects_is_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    traps = np.array([Trap(), Trap()], dtype=object)
    np.savez(tmp_path / "a.npz", pings=traps)
    np.savez(tmp_path / "b.npz", pings=rows(2), labels=traps)
    np.savez(tmp_path / "c.npz", pings=np.array([[Trap()], [Trap()]], dtype=object))
    files_npz(tmp_path / "d.npz", [1, 2], classes=traps)
    for name in ("a.npz", "b.npz", "c.npz", "d.npz"):
        with pytest.raises(UsageError, match=name):
            Pings(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_npz_without_samples_says_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weights=np.zeros((3, 4, 5), np.float32))
    with pytest.raises(UsageError, match=r"expected an array `pings` \(N, T\); found weights \(float32 \(3, 4, 5\)\)"):
        Pings(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", pings=np.zeros((3, 8), np.int16))
    with pytest.raises(UsageError, match="'pings' is int16; pings are expected as float32"):
        Pings(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", files=np.zeros(10, np.uint8), offsets=np.array([0, 7, 5]))
    with pytest.raises(UsageError, match="must rise"):
        Pings(tmp_path / "c.npz")
    unread = Kind("ping", "pings", PINGS.endings, ".ping")
    with pytest.raises(UsageError, match=r"not read from \.npz"):
        listing.find(tmp_path / "a.npz", unread)


@pytest.mark.parametrize(
    "arrays",
    [
        {"files": np.uint8(3), "offsets": np.array([0, 1])},
        {"files": np.zeros(10, np.uint8), "offsets": np.int64(3)},
        {"files": np.zeros(10, np.uint8), "offsets": np.array(["a", "b"])},
        {"pings": np.float32(3)},
    ],
    ids=["one number", "no offsets", "words for offsets", "a number"],
)
def test_npz_of_odd_arrays_are_refused_and_not_claimed(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    assert not listing.claims(tmp_path / "a.npz", PINGS)
    with pytest.raises(UsageError, match="no pings in"):
        Pings(tmp_path / "a.npz")


def test_npz_arrays_that_declare_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9), }"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("pings.npy", header.ljust(127) + b"\n" + bytes(400))
    with pytest.raises(UsageError, match=r"pings\.npy declares float32 .* more than it holds"):
        Pings(tmp_path / "a.npz")


# What is at a path


def test_folder_with_one_zip_stands_for_it(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", SPLIT)
    (tmp_path / "index.csv").write_text("path\n")
    assert len(Pings(tmp_path)) == 12


def test_a_missing_path_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    with pytest.raises(UsageError, match=r"recodings/cats does not exist: there is no 'recodings' in .*recordings\?"):
        Pings(tmp_path / "recodings" / "cats")


def test_a_folder_without_files_of_the_kind_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no pings in .*: expected \.ping or \.pong files.*; found no files at all"):
        Pings(tmp_path)
    tree(tmp_path, *[f"{n}.txt" for n in range(12)], "sub/a.csv", "sub/Makefile")
    with pytest.raises(UsageError, match=r"found 12 \.txt files, 1 nameless file, 1 \.csv file"):
        Pings(tmp_path)
    with pytest.raises(UsageError, match=r"0\.txt is a file; expected a folder of pings, a \.zip archive or an \.npz"):
        Pings(tmp_path / "0.txt")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users with fewer rights")
def test_an_unreadable_folder_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = tree(Path(name), "a.ping", "locked/b.ping")
        root.chmod(0o755)
        (root / "locked").chmod(0)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # root may read everything
            with pytest.raises(UsageError, match=r"locked.* cannot be read: Permission denied"):
                Pings(root)
        finally:
            os.seteuid(user)
            (root / "locked").chmod(0o755)


def test_facts_can_be_written_as_json(tmp_path: Path) -> None:
    tree(tmp_path, *SPLIT, "notes.txt")
    facts = json.loads(json.dumps(Pings(tmp_path).info()))
    assert facts == {
        "kind": "folder",
        "path": str(tmp_path),
        "samples": 12,
        "splits": {"train": 6, "test": 6},
        "classes": {"cat": 6, "dog": 6},
        "formats": {".ping": 12},
        "ignored": {".txt": 1},
        "notes": [],
    }


def test_claims_what_is_mostly_of_the_kind(tmp_path: Path) -> None:
    def claims(path: Path) -> bool:
        return listing.claims(path, PINGS)

    assert claims(tree(tmp_path / "labelled", "a/1.ping", "a/1.txt", "a/1.json", "readme.md"))
    assert not claims(tree(tmp_path / "films", "1.mp4", "2.mp4", "3.mp4", "poster.ping"))
    assert not claims(tree(tmp_path / "texts", "1.txt"))
    assert not claims(tmp_path / "absent")
    assert claims(archive(tmp_path / "a.zip", ["1.ping"]))
    np.savez(tmp_path / "graph.npz", edges=np.zeros((2, 9), np.int64))
    assert not claims(tmp_path / "graph.npz")
    assert claims(files_npz(tmp_path / "train.npz", [0, 1]))
    (tmp_path / "empty").mkdir()
    assert not claims(tmp_path / "empty")


def test_a_kind_of_text_is_not_taken_for_notes_beside_something_else(tmp_path: Path) -> None:
    texts = Kind("text", "texts", frozenset({".txt"}), ".txt")
    assert listing.claims(tree(tmp_path, "1.txt", "2.txt", "3.json"), texts)
