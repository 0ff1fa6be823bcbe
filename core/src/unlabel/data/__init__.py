"""Data: what a dataset is, in which order its samples come, how they become batches, and which are set aside."""

from unlabel.data.concatenated import Concatenated
from unlabel.data.dataset import Dataset, Subset, Views, collate, collated, holdout
from unlabel.data.draw import Draw, others
from unlabel.data.order import Buckets, Groups, Mixture, Order, Permutation
from unlabel.data.quarantine import UNREADABLE, Quarantine, reason
from unlabel.data.reader import Positions, Reader, Request, batches, check, default_workers, micro_batch
from unlabel.storage.jsonl import read_jsonl as read_jsonl

__all__ = [
    "UNREADABLE",
    "Buckets",
    "Concatenated",
    "Dataset",
    "Draw",
    "Groups",
    "Mixture",
    "Order",
    "Permutation",
    "Positions",
    "Quarantine",
    "Reader",
    "Request",
    "Subset",
    "Views",
    "batches",
    "check",
    "collate",
    "collated",
    "default_workers",
    "holdout",
    "micro_batch",
    "others",
    "reason",
]
