"""The encoder alone: out, in the naming of its own ecosystem, and in, from published weights or a run.

An encoder may offer `Exportable`: the names its weights have elsewhere, the code that loads them there, and an input to
try it on; and more, see `protocols`. Everything else is exported under its own names, to be loaded by `load_encoder`.
Every export is loaded again by its own snippet, in a process of its own, and compared. Of a task with several encoders
each has a folder of its own.
"""

from __future__ import annotations

from unlabel.export.formats import FORMATS
from unlabel.export.protocols import Exportable, Published
from unlabel.export.reading import initialise, load_encoder, load_first_weights
from unlabel.export.writing import export

__all__ = ["FORMATS", "Exportable", "Published", "export", "initialise", "load_encoder", "load_first_weights"]
