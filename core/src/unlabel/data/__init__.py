"""Data: what a dataset is, in which order its samples come, how they become batches, and which are set aside."""

from unlabel.data.dataset import Dataset, Subset, Views, collate, collated, holdout
from unlabel.data.quarantine import UNREADABLE, Quarantine, reason
from unlabel.data.reader import Positions, Reader, batches, default_workers, micro_batch
from unlabel.storage.jsonl import read_jsonl as read_jsonl

__all__ = [
    "UNREADABLE",
    "Dataset",
    "Positions",
    "Quarantine",
    "Reader",
    "Subset",
    "Views",
    "batches",
    "collate",
    "collated",
    "default_workers",
    "holdout",
    "micro_batch",
    "reason",
]
