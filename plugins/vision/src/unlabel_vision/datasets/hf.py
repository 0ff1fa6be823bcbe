"""HuggingFace: images of a `datasets` folder on disk or of Parquet files, through pyarrow alone.

Nothing is downloaded and no code of the dataset is run. Arrow files are memory-mapped. Parquet cannot be
read row by row (a row costs its whole row group), so the image column is copied once, uncompressed, into
the user's cache folder, and mapped from there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabel.errors import BadSample, UsageError, nearest
from unlabel_vision import images
from unlabel_vision.datasets import cache, folder, layout, sources
from unlabel_vision.datasets.stored import Stored

if TYPE_CHECKING:
    import pyarrow

__all__ = ["HuggingFace"]

_LABELS = ("label", "labels", "class", "category", "target", "y", "fine_label")


class HuggingFace(Stored):
    """Images of a folder written by ``datasets``' ``save_to_disk``, or of one or many ``.parquet`` or ``.arrow`` files.

    Args:
        path: the folder or file.
        split: use this split alone, undivided; by default train, validation and test become the parts.
        image: column of the images: encoded bytes, ``{"bytes", "path"}``, or nested 0 to 255; by default found.
        label: column of the labels, numbers or words; by default found.
        holdout: share of each class held out for testing where classes are known but no test split exists.
        shortest: the short side that is needed; larger JPEGs are decoded at 1/2, 1/4 or 1/8 size, much faster.
        min_size: images with a shorter short side are set aside as bad samples.
        max_pixels: images of more pixels are set aside as bad samples, before they are decoded.

    Raises:
        UsageError: pyarrow is not installed, the path is missing or damaged, or a column is not there or of no use.
    """

    kind = "huggingface"

    fallback = True

    def __init__(
        self,
        path: str | Path,
        *,
        split: str | None = None,
        image: str | None = None,
        label: str | None = None,
        holdout: float = 0.2,
        shortest: int | None = None,
        min_size: int = 8,
        max_pixels: int = images.MAX_PIXELS,
    ):
        path = Path(path).expanduser()
        files = _chosen(_files(path), split, path)
        schema = _schema(files[0].path)
        self.column = _image_column(schema, image, path)
        label = _label_column(schema, label, path)
        values = [None if label is None else _values(file.path, label) for file in files]

        parts = [None if split else file.part for file in files]
        divided = 0 in parts and any(parts)
        used = [number for number in range(len(files)) if not divided or _usable(parts, values, number)]
        counts = [_rows(files[number].path) for number in used]
        labels, classes = folder.numbered([values[number] for number in used], _class_names(schema, label))
        numbers = np.array([parts[number] or 0 for number in used], np.uint8)
        super().__init__(
            path,
            labels=labels,
            classes=classes,
            parts=np.repeat(numbers, counts) if np.any(numbers > 0) and divided else None,
            holdout=holdout,
            shortest=shortest,
            min_size=min_size,
            max_pixels=max_pixels,
        )
        self.files = [files[number].path for number in used]
        self.ends = np.cumsum(counts)
        self.formats = {files[0].path.suffix: int(self.ends[-1])}
        self.ignored = {}
        left_out = sorted({file.name for number, file in enumerate(files) if number not in used})
        self.notes = (f"left out: {', '.join(left_out)}, no part for training or not labelled",) if left_out else ()
        self.opened: list[pyarrow.ChunkedArray] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"opened": []}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def prepare(self) -> None:
        """Copy the image column of Parquet files to the cache, where that has not been done."""
        for file in self.files:
            if file.suffix == ".parquet":
                _mappable(file, self.column)

    def _place(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        return number, index - (int(self.ends[number - 1]) if number else 0)

    def read(self, index: int) -> bytes | np.ndarray:
        if not self.opened:
            self.opened = [_open(_mappable(file, self.column)).column(self.column) for file in self.files]
        number, row = self._place(index)
        return _content(self.opened[number][row], self.files[number].parent)

    def name_of(self, index: int) -> str:
        number, row = self._place(index)
        return f"{self.files[number]}:{self.column}[{row}]"

    @classmethod
    def claims(cls, path: Path) -> bool:
        """A ``save_to_disk`` folder, or Parquet or Arrow files, with a column of images. Says yes to the first two
        when pyarrow is missing, so that the user learns of it."""
        try:
            first = _files(path)[0].path
            _arrow()
        except (UsageError, OSError) as error:
            return "unlabel-vision[hf]" in str(error)
        try:
            _image_column(_schema(first), None, path)
        except UsageError:
            return False
        return True


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise UsageError(
            "reading Arrow and Parquet files needs pyarrow: run `pip install 'unlabel-vision[hf]'`"
        ) from error
    return pyarrow


@dataclass(frozen=True)
class File:
    """One file of the dataset: its path, the name of its split as the dataset gives it, and the part that means."""

    path: Path
    name: str
    part: int | None


def _files(path: Path) -> list[File]:
    """The files at `path`, split by split; UsageError if there is nothing of the kind."""
    if not path.exists():
        folder.missing(path)
    if path.is_file() and path.suffix in (".parquet", ".arrow"):
        return [File(path, path.stem, layout.part_in(path.stem))]
    if (path / "dataset_dict.json").is_file():
        splits = _json(path / "dataset_dict.json", "splits")
        return [File(file.path, name, layout.part_of(name)) for name in splits for file in _saved(path / name)]
    if (path / "state.json").is_file():
        return _saved(path)
    found = sorted(path.rglob("*.parquet")) or sorted(path.rglob("*.arrow")) if path.is_dir() else []
    if not found:
        raise UsageError(f"{path}: expected a folder written by save_to_disk, or .parquet or .arrow files")
    return [
        File(file, file.relative_to(path).as_posix(), layout.part_in("/".join(file.relative_to(path).parts[-2:])))
        for file in found
    ]


def _saved(path: Path) -> list[File]:
    names = [entry["filename"] for entry in _json(path / "state.json", "_data_files")]
    return [File(path / name, path.name, None) for name in names]


def _json(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is not what save_to_disk writes: {key!r} cannot be read") from error


def _chosen(files: list[File], split: str | None, path: Path) -> list[File]:
    if split is None:
        return files
    part = layout.part_of(split)
    found = [file for file in files if file.name == split or (part is not None and file.part == part)]
    if not found:
        names = sorted({file.name for file in files})
        raise UsageError(f"{path} has no split {split!r}{nearest(split, names)} It has: {', '.join(names[:10])}")
    return found


def _open(path: Path) -> pyarrow.Table:
    """An Arrow file, stream or file format, mapped into memory."""
    arrow = _arrow()
    with open(path, "rb") as file:
        stream = file.read(6) != b"ARROW1"
    mapped = arrow.memory_map(str(path))
    try:
        reader = arrow.ipc.open_stream(mapped) if stream else arrow.ipc.open_file(mapped)
        return reader.read_all()
    except (arrow.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path} is not an intact Arrow file ({error}); was it copied completely?") from error


def _parquet(path: Path) -> Any:
    arrow = _arrow()
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except arrow.ArrowInvalid as error:
        raise UsageError(f"{path} is not an intact Parquet file ({error}); was it copied completely?") from error


def _schema(path: Path) -> pyarrow.Schema:
    return _parquet(path).schema_arrow if path.suffix == ".parquet" else _open(path).schema


def _rows(path: Path) -> int:
    return int(_parquet(path).metadata.num_rows if path.suffix == ".parquet" else _open(path).num_rows)


def _values(path: Path, column: str) -> np.ndarray | None:
    """The labels of one file as found; None if some are missing, which is also said by a negative number."""
    table = _parquet(path).read(columns=[column]) if path.suffix == ".parquet" else _open(path)
    found = table.column(column)
    if found.null_count:
        return None
    values: np.ndarray = np.asarray(found.to_pylist())
    return None if values.dtype.kind in "iu" and len(values) and values.min() < 0 else values


def _mappable(path: Path, column: str) -> Path:
    """An Arrow file that holds the column: the file itself, or the copy of a Parquet file's column."""
    if path.suffix != ".parquet":
        return path
    copy = cache.place("parquet", path, ".arrow", column)
    if copy.exists():
        return copy
    arrow, file = _arrow(), _parquet(path)
    schema = arrow.schema([file.schema_arrow.field(column)])
    with cache.written(copy) as temporary, arrow.ipc.new_stream(str(temporary), schema) as writer:
        for batch in file.iter_batches(batch_size=128, columns=[column]):
            writer.write_batch(batch.replace_schema_metadata(None).cast(schema))
    return copy


def _value_type(kind: Any) -> Any:
    """The innermost type of nested lists, e.g. uint8 of list<list<uint8>>."""
    types = _arrow().types
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    return kind


def _is_image(kind: Any) -> bool:
    """Whether a column of this Arrow type can hold images."""
    types = _arrow().types
    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    if types.is_binary(kind) or types.is_large_binary(kind):
        return True
    nested = types.is_nested(kind) and types.is_nested(kind.value_type)
    return bool(nested and types.is_integer(_value_type(kind)))


def _image_column(schema: pyarrow.Schema, given: str | None, path: Path) -> str:
    if given is not None and given not in schema.names:
        raise UsageError(
            f"{path} has no column {given!r}{nearest(given, schema.names)} It has: {', '.join(schema.names)}"
        )
    columns = [field for field in schema if _is_image(_storage(field.type)) and given in (None, field.name)]
    columns.sort(key=lambda field: not _arrow().types.is_struct(field.type))  # encoded files before nested lists
    if not columns:
        listing = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UsageError(
            f"{path}: no column of images: expected encoded bytes, {{bytes, path}}, "
            f"or lists of integers; found {listing}"
        )
    return str(columns[0].name)


def _storage(kind: Any) -> Any:
    """What an extension type (such as `datasets`' arrays, when that package is imported) is stored as."""
    return kind.storage_type if isinstance(kind, _arrow().BaseExtensionType) else kind


def _features(schema: pyarrow.Schema) -> dict[str, Any]:
    """What `datasets` wrote about the columns, e.g. ``{"label": {"_type": "ClassLabel", "names": [...]}}``."""
    written = (schema.metadata or {}).get(b"huggingface", b"{}")
    features: dict[str, Any] = json.loads(written).get("info", {}).get("features", {})
    return features


def _label_column(schema: pyarrow.Schema, given: str | None, path: Path) -> str | None:
    if given is not None and given not in schema.names:
        raise UsageError(
            f"{path} has no column {given!r}{nearest(given, schema.names)} It has: {', '.join(schema.names)}"
        )
    types = _arrow().types
    known = [name for name, feature in _features(schema).items() if feature.get("_type") == "ClassLabel"]
    for name in [given] if given else [*known, *_LABELS]:
        if name in schema.names and (
            types.is_integer(schema.field(name).type) or types.is_string(schema.field(name).type)
        ):
            return name
    if given:
        raise UsageError(f"{path}: the column {given!r} is {schema.field(given).type}; labels are integers or strings")
    return None


def _class_names(schema: pyarrow.Schema, label: str | None) -> tuple[str, ...] | None:
    names = _features(schema).get(label or "", {}).get("names")
    return tuple(names) if names else None


def _usable(parts: Sequence[int | None], values: Sequence[np.ndarray | None], number: int) -> bool:
    """Whether a file of a divided set is of use: it is part of it, and labelled if the training part is."""
    labelled = all(found is not None for part, found in zip(parts, values, strict=True) if part == 0)
    return parts[number] is not None and (not labelled or values[number] is not None)


def _content(cell: Any, near: Path) -> bytes | np.ndarray:
    """One cell of the image column: encoded bytes, or pixels."""
    types, kind = _arrow().types, cell.type
    if isinstance(cell, _arrow().ExtensionScalar):
        cell, kind = cell.value, cell.value.type
    if not cell.is_valid:
        raise BadSample("no image in this row")
    if types.is_struct(kind):
        if cell["bytes"].is_valid:
            return bytes(cell["bytes"].as_buffer())
        return _beside(cell["path"].as_py() if kind.get_field_index("path") >= 0 else None, near)
    if types.is_binary(kind) or types.is_large_binary(kind):
        return bytes(cell.as_buffer())
    return sources.channels_last(_nested(cell.values))


def _beside(path: str | None, near: Path) -> bytes:
    """The file that a row names instead of holding it."""
    if path is None:
        raise BadSample("no image in this row")
    if "://" in path:
        raise BadSample(f"the row names {path}; only local files are read")
    return (near / path).read_bytes()


def _nested(values: Any) -> np.ndarray:
    """Nested Arrow lists of equal lengths as uint8."""
    types = _arrow().types
    shape = [len(values)]
    while types.is_nested(values.type):
        lengths = values.value_lengths().unique()
        if len(lengths) != 1:
            raise BadSample("rows of different lengths")
        shape.append(lengths[0].as_py())
        values = values.flatten()
    flat: np.ndarray = values.to_numpy(zero_copy_only=False)
    if flat.dtype.kind not in "iu" or (len(flat) and (flat.min() < 0 or flat.max() > 255)):
        raise BadSample("values outside 0 to 255")
    return flat.astype(np.uint8).reshape(shape)
