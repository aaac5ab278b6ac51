"""What the server remembers of its visitors: who is there, who uploaded how much, who gave a wrong password."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

UPLOADS_COUNT = 4200  # seconds: uploads are kept for an hour, and looked through every ten minutes
FORGET = 600
LONGEST_DELAY = 30
LOGINS_WAITING = 10


class TooMuch(ValueError):
    """A visitor asks too much within some time."""


class Presence:
    """Which sessions have a stream open, or had one a moment ago."""

    def __init__(self, grace: float = 15.0) -> None:
        self.grace = grace
        self._open: Counter[str] = Counter()
        self._seen: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def listening(self, session: str) -> Iterator[None]:
        """The time in which a session has a stream open."""
        with self._lock:
            self._open[session] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[session] -= 1
                self._seen[session] = time.monotonic()

    def is_here(self, session: str) -> bool:
        """Whether the session listens; one that was never heard of has `grace` seconds to begin."""
        now = time.monotonic()
        with self._lock:
            for old in [s for s, seen in self._seen.items() if now - seen > FORGET and s != session]:
                del self._seen[old]
            self._open = +self._open
            return session in self._open or now - self._seen.setdefault(session, now) < self.grace


class Uploads:
    """How many bytes an address, and all of them together, may upload before old files are cleaned away."""

    def __init__(self, of_one: int, of_all: int) -> None:
        self.of_one, self.of_all = of_one, of_all
        self._taken: deque[tuple[float, str, int]] = deque()

    def take(self, address: str, size: int) -> None:
        """Notes an upload. Raises TooMuch if it is beyond the quota."""
        now = time.monotonic()
        while self._taken and now - self._taken[0][0] > UPLOADS_COUNT:
            self._taken.popleft()
        own = sum(n for _, who, n in self._taken if who == address)
        if own + size > self.of_one or sum(n for _, _, n in self._taken) + size > self.of_all:
            raise TooMuch("too much was uploaded within the hour; try again later.")
        self._taken.append((now, address, size))


class Logins:
    """Lets an address try one password at a time, each later after the wrong ones before it."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        self._wrong: dict[str, tuple[int, float]] = {}  # how many, and when the next may come

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Waits until this address may try. Raises TooMuch if too many of its logins wait already."""
        if self._waiting[address] >= LOGINS_WAITING:
            raise TooMuch("too many logins at once; try again later.")
        self._waiting[address] += 1
        try:
            async with self._locks.setdefault(address, asyncio.Lock()):
                await asyncio.sleep(self._wrong.get(address, (0, 0.0))[1] - time.monotonic())
                yield
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address], self._locks[address]

    def tell(self, address: str, right: bool) -> None:
        """Notes how a login ended."""
        now = time.monotonic()
        self._wrong = {who: (n, then) for who, (n, then) in self._wrong.items() if now - then < FORGET}
        count = self._wrong.pop(address, (0, 0.0))[0]
        if not right:
            self._wrong[address] = (count + 1, now + min(2**count, LONGEST_DELAY))
