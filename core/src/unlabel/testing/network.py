"""Noticing and refusing connections to other machines, for as long as one likes.

Python reports every connection and every look-up of a name to its audit hooks, whoever makes it. A hook cannot be
taken away again, so there is one, which does nothing unless somebody is watching. Libraries that open connections in
their own machine code, and processes that are started meanwhile, are not seen.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["NetworkRefused", "refused"]

_CONNECTING = ("socket.connect", "socket.sendto", "socket.sendmsg")
_LOOKING_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_HERE = ("localhost", "::1", "::", "0.0.0.0", "")

_watchers: list[list[str]] = []


class NetworkRefused(ConnectionError):
    """Something wanted to connect to another machine while that was refused."""


@contextmanager
def refused() -> Iterator[list[str]]:
    """Refuse connections to other machines (this one may be connected to).

    Yields:
        What was tried, as it is tried: ``"connect to example.org:443"``; also what the code itself overlooks.
    """
    _install()
    tried: list[str] = []
    _watchers.append(tried)
    try:
        yield tried
    finally:
        _watchers[:] = [others for others in _watchers if others is not tried]  # equal lists are not the same


@functools.cache
def _install() -> None:
    sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watchers or not event.startswith("socket."):
        return
    if event in _CONNECTING and isinstance(arguments[1], tuple):  # a string is the path of a local one
        host, words = arguments[1][0], "connect to {0[0]}:{0[1]}".format(arguments[1])
    elif event in _LOOKING_UP:
        host, words = arguments[0], f"look up {arguments[0]!r}"
    else:
        return
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    if name in _HERE or name.startswith("127."):
        return
    for tried in _watchers:
        tried.append(words)
    raise NetworkRefused(f"tried to {words}: a run uses the network only where its user asks for it")
