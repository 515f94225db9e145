"""Appending: optimistic concurrency, atomic batches, group commit, and retries that cannot store twice.

With `sync_interval: always` the server syncs once per message but only a few times per atomic batch of any size. So
independent appends that come while another is on its way travel together; a lone one goes at once, as it is. A batch
holds no aggregate twice, because two appends with one expectation would both be stored. When a batch is refused it is
halved until the culprit stands alone; every other append of it is stored. When an answer is lost, the ids in the log
say whether it was stored.
"""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence

import orjson
import structlog

from events.address import Address
from services.kit.batches import DUPLICATE_IN_BATCH, DuplicateId, Entry, Stamped, command, meets, resolve
from services.kit.errors import Conflict, IdReused, KitError, LogFull, LogStuck, Refused, Transient
from services.kit.log_read import Reader
from services.kit.stuck import write_error
from services.kit.wire import JSON, ApiError, Reply, Wire, api_error, mapping

BATCH_MESSAGES_MAX = 1_000
"""The server's limit for an atomic batch."""
BATCH_BYTES_MAX = 4 * 1024 * 1024
QUEUE_MESSAGES_MAX = 20_000
QUEUE_BYTES_MAX = 64 * 1024 * 1024
SKIPPED_MAX = 1_000
"""How many appends to aggregates already in a batch are looked past for others that may join it."""
ALONE_MAX = 6
"""So few travel faster each by itself: an atomic batch of any size takes the server as long as about six messages."""
IN_FLIGHT_MAX = 2
"""Batches on their way at once: while the server syncs one, the next is made."""
ATTEMPT_TIMEOUT_S = 3.0
EXPIRY_LOOK_S = 0.25
"""How late the deadline of an append that still waits may be noticed."""
STUCK_AFTER = 2

_CONFLICT = {10071, 10164}
_INCOMPLETE = 10176
_AGAIN = {10158, 10163, 10167, _INCOMPLETE, 10210, 10211}
_FULL = {10023, 10028, 10047, 10077}
_log: structlog.stdlib.BoundLogger = structlog.get_logger("log")


class Appender:
    """The queue of appends of one connection and the batches on their way."""

    def __init__(
        self,
        wire: Wire,
        stream: str,
        reader: Reader,
        in_flight_max: int = IN_FLIGHT_MAX,
        monitor_url: str | None = None,
    ) -> None:
        self._wire = wire
        self._stream = stream
        self._reader = reader
        self._in_flight_max = in_flight_max
        self._monitor_url = monitor_url
        self._queue: deque[Entry] = deque()
        self._queued_messages = 0
        self._queued_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._in_flight = 0
        self._pump_scheduled = False
        self._look: asyncio.TimerHandle | None = None
        self._recoveries: set[asyncio.Task[None]] = set()
        self._batch_prefix = random.randbytes(6).hex().encode()  # noqa: S311 # only has to differ between clients
        self._batch_ids = itertools.count(1)
        self._closed = False
        self.unanswered = 0
        """Attempts in a row that a connected server did not store and did not refuse."""

    async def append(self, parts: tuple[Stamped, ...], deadline_s: float) -> int:
        """Store all parts or none. Returns the seq of the last event."""
        loop = asyncio.get_running_loop()
        entry = Entry(parts, loop.time() + deadline_s, loop.create_future())
        if entry.messages > BATCH_MESSAGES_MAX:
            raise Refused(f"{entry.messages} events in one append, the server takes at most {BATCH_MESSAGES_MAX}")
        if self._closed:
            raise Transient("the connection is closed: nothing was appended")
        if self._queued_messages >= QUEUE_MESSAGES_MAX or self._queued_bytes >= QUEUE_BYTES_MAX:
            await self._wait_for_room(deadline_s)
        self._queue.append(entry)
        self._queued_messages += entry.messages
        self._queued_bytes += entry.size_bytes
        self._schedule()
        if self._look is None and self._in_flight >= self._in_flight_max:
            self._look = loop.call_later(EXPIRY_LOOK_S, self._expire)
        return await entry.done

    async def close(self) -> None:
        """Fail what still waits; what was sent may have been stored."""
        self._closed = True
        for task in tuple(self._recoveries):
            task.cancel()
        await asyncio.gather(*self._recoveries, return_exceptions=True)
        if self._look is not None:
            self._look.cancel()
        while self._queue:
            self._queue.popleft().fail(Transient("the connection is closed: nothing was appended"))

    async def _wait_for_room(self, deadline_s: float) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                while self._queued_messages >= QUEUE_MESSAGES_MAX or self._queued_bytes >= QUEUE_BYTES_MAX:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            raise Transient(
                f"{self._queued_messages} appends ({self._queued_bytes} bytes) wait already: nothing was appended"
            ) from None

    def _schedule(self) -> None:
        """Look at the queue when all who run in this turn of the loop have joined it."""
        if not self._pump_scheduled and self._in_flight < self._in_flight_max:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        while self._queue and self._in_flight < self._in_flight_max:
            batch = self._collect()
            if not batch:
                return
            self._in_flight += 1
            if len(batch) <= ALONE_MAX and all(entry.messages == 1 for entry in batch):
                self._start_each(batch)
            else:
                self._start(batch, self._end)

    def _collect(self) -> list[Entry]:
        """Take from the queue what may travel together; a second append to an aggregate waits for the first."""
        batch: list[Entry] = []
        skipped: list[Entry] = []
        seen: set[Address] = set()
        messages = size = 0
        now = asyncio.get_running_loop().time()
        queue = self._queue
        while queue and messages < BATCH_MESSAGES_MAX and len(skipped) < SKIPPED_MAX:
            entry = queue[0]
            if batch and (messages + entry.messages > BATCH_MESSAGES_MAX or size + entry.size_bytes > BATCH_BYTES_MAX):
                break
            queue.popleft()
            if entry.done.done() or entry.deadline <= now:
                entry.fail(Transient("the deadline passed while the append waited: nothing was appended"))
                self._leave(entry)
            elif meets(seen, entry):
                skipped.append(entry)
            else:
                batch.append(entry)
                messages += entry.messages
                size += entry.size_bytes
                self._leave(entry)
        queue.extendleft(reversed(skipped))
        return batch

    def _expire(self) -> None:
        """End those in the queue whose time is over: batches on their way may take far longer than they have."""
        loop = asyncio.get_running_loop()
        now, waiting = loop.time(), deque[Entry]()
        for entry in self._queue:
            if entry.done.done() or entry.deadline <= now:
                entry.fail(Transient("the deadline passed while the append waited: nothing was appended"))
                self._leave(entry)
            else:
                waiting.append(entry)
        self._queue = waiting
        self._look = loop.call_later(EXPIRY_LOOK_S, self._expire) if waiting else None

    def _leave(self, entry: Entry) -> None:
        self._queued_messages -= entry.messages
        self._queued_bytes -= entry.size_bytes
        if not self._room.is_set():
            self._room.set()

    def _start_each(self, batch: list[Entry]) -> None:
        """Send few that are independent each by itself; together they are one of those on their way."""
        left = len(batch)

        def ended() -> None:
            nonlocal left
            left -= 1
            if not left:
                self._end()

        for entry in batch:
            self._start([entry], ended)

    def _start(self, batch: list[Entry], ended: Callable[[], None]) -> None:
        """Send a batch; its happy end needs no task. `ended` is called when all of it has come to its end."""

        def on_end(outcome: int | ApiError | Transient) -> None:
            if isinstance(outcome, int):
                resolve(batch, outcome)
                ended()
            else:
                task = asyncio.get_running_loop().create_task(self._recover(batch, outcome, ended))
                self._recoveries.add(task)
                task.add_done_callback(self._recoveries.discard)

        self._send(batch, on_end)

    def _end(self) -> None:
        self._in_flight -= 1
        self._schedule()

    def _send(self, batch: Sequence[Entry], on_end: Callable[[int | ApiError | Transient], None]) -> None:
        """Send once. `on_end` gets the last seq, the server's refusal, or why the outcome is unknown."""
        loop = asyncio.get_running_loop()

        def on_reply(reply: Reply | None) -> bool:
            timer.cancel()
            on_end(self._outcome(reply))
            return False

        def on_timeout() -> None:
            self._wire.forget(token)
            self.unanswered += 1
            on_end(Transient(f"no acknowledgement within {ATTEMPT_TIMEOUT_S} s"))

        token, inbox = self._wire.expect(on_reply)
        timer = loop.call_later(ATTEMPT_TIMEOUT_S, on_timeout)
        if not self._wire.client.send_now(command(batch, inbox, self._batch_id())):
            timer.cancel()
            self._wire.forget(token)
            loop.call_soon(on_end, Transient("not connected to NATS"))

    def _batch_id(self) -> bytes:
        return b"%b-%x" % (self._batch_prefix, next(self._batch_ids))

    def _outcome(self, reply: Reply | None) -> int | ApiError | Transient:
        if reply is None:
            return Transient("the connection was lost before the acknowledgement")
        if reply.status == 503:
            return Transient(f"no stream {self._stream} takes appends now")
        try:
            return self._read(orjson.loads(reply.data))
        except (ValueError, TypeError, KeyError) as error:
            return Transient(f"the acknowledgement cannot be read: {error!r}")

    def _read(self, answer: JSON) -> int | ApiError | DuplicateId:
        error = api_error(mapping(answer["error"])) if "error" in answer else None
        # A server whose disk is full says that batches are incomplete, and nothing at all to single messages.
        self.unanswered = self.unanswered + 1 if error and error.err_code == _INCOMPLETE else 0
        if error is not None:
            return error
        if answer["stream"] != self._stream:
            return ApiError(400, 10060, f"appended to stream {answer['stream']}, not {self._stream}")
        seq = int(str(answer["seq"]))
        return DuplicateId(seq) if answer.get("duplicate") else seq

    async def _recover(
        self, batch: list[Entry], outcome: int | ApiError | Transient, ended: Callable[[], None]
    ) -> None:
        """Bring every append of a batch that did not simply succeed to its end."""
        try:
            await self._settle(batch, outcome)
        except asyncio.CancelledError:
            for entry in batch:
                entry.fail(Transient("the connection is closed: the outcome is unknown"))
            raise
        except Exception as error:  # noqa: BLE001 # the edge: an append must never wait for ever
            _log.exception("append.broken")
            for entry in batch:
                entry.fail(Transient(f"the outcome is unknown: {error!r}"))
        finally:
            ended()

    async def _settle(self, batch: list[Entry], outcome: int | ApiError | Transient) -> None:
        pause_s = 0.01
        while True:
            if isinstance(outcome, int):
                resolve(batch, outcome)
                return
            if isinstance(outcome, ApiError) and not _again(outcome):
                await self._refused(batch, outcome)
                return
            if isinstance(outcome, Transient):
                for entry in batch:
                    entry.uncertain = True
            if self.unanswered and (reason := await self._write_error()):
                for entry in batch:
                    entry.fail(LogFull(f"log is full: {reason}; free space, then the server must be restarted"))
                return
            batch = self._still_in_time(batch, outcome)
            if not batch:
                return
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 # jitter
            pause_s = min(1.0, pause_s * 2)
            outcome = await self._attempt(batch)

    async def _write_error(self) -> str:
        return await write_error(self._monitor_url) if self._monitor_url and self._wire.client.is_connected else ""

    def _still_in_time(self, batch: list[Entry], outcome: ApiError | Transient) -> list[Entry]:
        now = asyncio.get_running_loop().time()
        for entry in batch:
            if entry.deadline <= now:
                unknown = "the outcome is unknown" if entry.uncertain else "nothing was appended"
                kind = LogStuck if self.unanswered >= STUCK_AFTER else Transient
                entry.fail(kind(f"the deadline passed and {unknown}: {outcome}"))
        return [entry for entry in batch if not entry.done.done()]

    async def _attempt(self, batch: list[Entry]) -> int | ApiError | Transient:
        """Send again, unless an earlier attempt, whose answer was lost, turns out to be stored."""
        if not self._wire.client.is_connected:
            return Transient("not connected to NATS")
        if batch[0].uncertain:
            try:
                first = await self._stored(batch[0])
            except (Transient, ApiError) as error:
                return Transient(f"the log could not be read: {error}")
            if first is not None and len(batch) == 1:
                return first
            # With more in the batch the refusal of the next attempt leads to each of them.
        future: asyncio.Future[int | ApiError | Transient] = asyncio.get_running_loop().create_future()

        def on_end(outcome: int | ApiError | Transient) -> None:
            if not future.done():
                future.set_result(outcome)

        self._send(batch, on_end)
        return await future

    async def _refused(self, batch: list[Entry], error: ApiError) -> None:
        """Halve a refused batch until each append has its own answer."""
        if len(batch) > 1 and error.err_code not in _FULL:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                await self._settle(half, await self._attempt(half))
            return
        if error.err_code in _CONFLICT or error.err_code == DUPLICATE_IN_BATCH:
            await self._verify(batch[0], error)
            return
        for entry in batch:
            entry.fail(_refusal(error))

    async def _verify(self, entry: Entry, error: ApiError) -> None:
        """A conflict or duplicate may be our own earlier attempt, whose answer was lost: the ids say."""
        while True:
            try:
                seq = await self._stored(entry)
                if seq is not None:
                    entry.succeed(seq)
                else:
                    entry.fail(await self._conflict(entry, error))
            except Transient as trouble:
                if not self._still_in_time([entry], trouble):
                    return
                await asyncio.sleep(random.uniform(0.05, 0.1))  # noqa: S311 # jitter
            else:
                return

    async def _stored(self, entry: Entry) -> int | None:
        """Return the seq of the append's last event if it is stored; one part's ids tell, for it is all or none."""
        seq: int | None = None
        for part in (entry.parts[0], entry.parts[-1]):
            found = await self._reader.read(part.address, part.expected, len(part.pieces))
            if [message.headers.get("Nats-Msg-Id") for message in found] != [piece.id for piece in part.pieces]:
                return None
            seq = found[-1].seq
        return seq

    async def _conflict(self, entry: Entry, error: ApiError) -> KitError:
        for part in entry.parts:
            last = await self._reader.last(part.address.filter())
            actual = last.seq if last else 0
            if actual != part.expected:
                return Conflict(part.address, part.expected, actual)
        if error.err_code == DUPLICATE_IN_BATCH:
            return IdReused(entry.parts[0].pieces[0].id, error.seq if isinstance(error, DuplicateId) else 0)
        part = entry.parts[0]
        return Conflict(part.address, part.expected, part.expected)


def _again(error: ApiError) -> bool:
    return error.err_code in _AGAIN or (error.code == 503 and error.err_code not in _FULL)


def _refusal(error: ApiError) -> Refused:
    if error.err_code in _FULL:
        return LogFull(f"log is full: {error}; raise AUTOVIBE_LOG_BYTES or free space on the server's disk")
    return Refused(f"the log refused the append: {error}")
