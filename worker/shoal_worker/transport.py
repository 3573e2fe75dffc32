"""A kombu transport on Redis that cannot lose a message: `shoal://` in place of `redis://`, and `shoal-sentinel://`.

kombu's own takes one message with BRPOP and only then notes it as unacknowledged; a process killed in between loses
it for ever. Here one script (`lua/fetch.lua`) moves many messages into the unacked hash, settles acknowledgements
and brings in parked messages that are due, whole or not at all. Waiting takes nothing out: BLMOVE of a list's last
message onto its own end is a no-op that returns when there is one.

Queues are served in their order, a queue's tenants in turns (`lua/fetch.lua`). Of each so many messages are taken as
the pool has use for: `room_of` is asked before each turn.

Keys and messages are kombu's, so stock Celery clients and workers, Flower and KEDA understand the queues. Messages in
flight are renewed while their tasks run (the visibility timeout can be short), those of a dead worker are put back
by the living. A channel that closes puts nothing back, because its tasks go on: their acknowledgements wait in the
process's ledger (`ledger.py`) for the next channel.

Behind Sentinel the same, with a connection to the primary of the day. A message that was taken, renewed or acknowledged
just before a failover comes once more; leases and stored results keep its answer single.
"""

import logging
from collections import deque
from collections.abc import Callable
from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as stock
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from pydantic_core import from_json
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError
from redis.sentinel import SentinelManagedConnection

from shoal import wire
from shoal.redis_url import SENTINEL_OPTIONS, is_away
from shoal_worker import sentry
from shoal_worker.ledger import Ack, Ledger, Move, ledger_of

log = logging.getLogger(__name__)

SCHEME = "shoal"
SENTINEL_SCHEME = "shoal-sentinel"

#: Most messages in one turn: what the server is kept busy with at once.
FETCH_AT_ONCE = 100
VERDICTS_AT_ONCE = 500
#: The longest wait for a message: parked ones come due meanwhile.
WAIT_SECONDS = 1.0
#: With several queues each is waited for in turn.
WAIT_SECONDS_EACH = 0.1
#: What waits for room is looked at again after this long.
ROOM_SECONDS = 0.01
#: How long an acknowledgement waits for company when nothing is fetched.
FLUSH_SECONDS = 0.02
RESTORE_AT_ONCE = 200
#: A full server refuses to wait, though it lets messages be taken: ask again after this long.
FULL_SERVER_SECONDS = 0.2

_SCRIPTS = {name: wire.script("shoal_worker", name) for name in ("fetch", "renew", "expired")}
_SCRIPTS["fetch"] = wire.script("shoal", "queue") + _SCRIPTS["fetch"]


def register() -> None:
    """Make kombu know the schemes."""
    TRANSPORT_ALIASES[SCHEME] = "shoal_worker.transport:Transport"
    TRANSPORT_ALIASES[SENTINEL_SCHEME] = "shoal_worker.transport:SentinelTransport"


class UnreadableMessageError(Exception):
    """kombu cannot build a message of it: a body that is not in its stated encoding, say."""


class Message(virtual.Message):
    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **options)
        except Exception as error:  # noqa: BLE001 whatever a foreign producer's message makes kombu raise
            raise UnreadableMessageError(type(error).__name__) from None


class QoS(stock.QoS):
    """Decisions go to the ledger; the next turn tells Redis."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # kombu's exit hook would keep this object and its messages for ever: forgotten ones would be renewed for ever.
        self._on_collect.cancel()

    def append(self, message: Any, delivery_tag: str) -> None:
        """The script has noted the message already."""
        self.channel.ledger.hand_over(delivery_tag, message)
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        self.channel.ledger.ack(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        message = self.channel.ledger.message(delivery_tag)
        if requeue and message is not None:
            self.channel.ledger.move(delivery_tag, dumps(message._raw))  # noqa: SLF001 kombu's own custom
        else:
            self.channel.ledger.ack(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """A closing channel's messages are still worked on: nothing goes back. See `Channel.release`."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """The same."""

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:  # noqa: ARG002 kombu's
        self.channel.restore_expired()


class Channel(stock.Channel):
    QoS = QoS
    Message = Message
    max_connections = 100
    socket_timeout = 30
    socket_connect_timeout = 5
    socket_keepalive = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._fetching = False
        #: The queues that may have messages for us; known after each turn.
        self._may_have_more: set[str] = set()
        self._looks_at_all = True
        self._sent: tuple[list[Ack], list[Move]] = ([], [])
        self._asked: list[str] = []
        self._no_ack_queues: set[str] = set()
        self._idle_until = 0.0
        #: How many messages of a queue the pool has use for; None for as many as there are.
        self.room_of: Callable[[str], int | None] = lambda _: None
        super().__init__(*args, **kwargs)
        self.ledger: Ledger = ledger_of(self._broker())
        self._shas = {name: self.client.script_load(text) for name, text in _SCRIPTS.items()}

    def _broker(self) -> tuple[object, ...]:
        """What stays the same of the broker when the connection is made anew."""
        info = self.connection.client
        return (info.hostname, info.port, info.virtual_host)

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **options: Any) -> Any:
        """Without acknowledgements (replies to remote control) a message is done when it is delivered."""
        (self._no_ack_queues.add if no_ack else self._no_ack_queues.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **options)

    # --- fetching: one request at a time on the connection that the hub reads ----------------------------------

    def _brpop_start(self, timeout: float | None = None) -> None:  # noqa: ARG002 kombu's signature
        queues = self._in_order(self._queue_cycle.consume(len(self.active_queues)))
        now = monotonic()
        if not queues or (now < self._idle_until and not self.ledger.undelivered_verdicts):
            return
        rooms = [self._room(queue) for queue in queues]
        has_use = any(room for queue, room in zip(queues, rooms, strict=True) if queue in self._may_have_more)
        if not (self.ledger.undelivered_verdicts or self._looks_at_all or has_use):
            if self._may_have_more or not any(rooms):
                self._idle_until = now + ROOM_SECONDS
                self._looks_at_all = True
                return
            self._send(False, "BLMOVE", queues[0], queues[0], "RIGHT", "RIGHT", self._wait_seconds(queues))
            return
        self._send(True, *self._fetch_command(queues, rooms))

    def _send(self, fetching: bool, *command: Any) -> None:
        connection = self.client.connection
        self._in_poll = connection
        self._brpop_sent_at = monotonic()
        self._fetching = fetching
        connection.send_command(*command)

    def _in_order(self, queues: list[str]) -> list[str]:
        """The bulk queue last: its messages come when the others have none."""
        return sorted(queues, key=lambda queue: queue == wire.BULK_QUEUE)

    def _wait_seconds(self, queues: list[str]) -> float:
        # Whoever fills the bulk queue leaves a note in the first one.
        return WAIT_SECONDS if len(set(queues) - {wire.BULK_QUEUE}) <= 1 else WAIT_SECONDS_EACH

    def _room(self, queue: str) -> int:
        """How many messages of a queue to take now."""
        rooms = (FETCH_AT_ONCE, self.qos.can_consume_max_estimate(), self.room_of(queue))
        return min(room for room in rooms if room is not None)

    def _brpop_read(self, **options: Any) -> bool:
        """Deliver what came; True when something did."""
        fetching, self._fetching = self._fetching, False
        try:
            reply = self.client.parse_response(self.client.connection, "EVALSHA", **options)
        except NoScriptError:
            self._forget_sent()
            self._load_scripts()
            self._looks_at_all = True
            raise Empty from None
        except self.connection_errors:
            self._forget_sent()
            self.client.connection.disconnect()
            raise
        except OutOfMemoryError:
            self._forget_sent()
            self._idle_until = monotonic() + FULL_SERVER_SECONDS
            self._looks_at_all = True
            raise Empty from None
        except RedisError:
            self._forget_sent()
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if not fetching:
            self._looks_at_all = True  # a message came, or a parked one may be due
            raise Empty
        self._sent = ([], [])
        return self._deliver_all(reply)

    def _fetch_command(self, queues: list[str], rooms: list[int]) -> tuple[Any, ...]:
        self._asked = queues
        self._looks_at_all = False
        self._sent = self.ledger.take_verdicts(VERDICTS_AT_ONCE)
        lists = [self._q_for_pri(queue, step) for queue in queues for step in self.priority_steps]
        return ("EVALSHA", self._shas["fetch"], *self._turn(rooms, [*map(wire.parked, queues), *lists]))

    def _turn(self, rooms: list[int], keys: list[str]) -> tuple[Any, ...]:
        """Keys and arguments of the fetch script, with the verdicts in `_sent`."""
        acks, moves = self._sent
        fixed = [self.unacked_key, self.unacked_index_key, wire.UNDECODABLE]
        verdicts = [part for verdict in (*acks, *moves) for part in verdict]
        return (len(fixed) + len(keys), *fixed, *keys, len(rooms), len(acks), len(moves), *rooms, *verdicts)

    def _deliver_all(self, reply: list[Any]) -> bool:
        score, queues = bytes_to_str(reply[0]), self._asked
        more, found = reply[1 : 1 + len(queues)], reply[1 + len(queues) :]
        self._may_have_more = {queue for queue, is_more in zip(queues, more, strict=True) if is_more}
        arrived: deque[tuple[str, str, bytes]] = deque()
        for place, list_key, tag, text in zip(found[0::4], found[1::4], found[2::4], found[3::4], strict=True):
            self.ledger.receive(bytes_to_str(tag), score, bytes_to_str(list_key))
            arrived.append((queues[place - 1], bytes_to_str(tag), text))
        came = bool(arrived)
        try:
            while arrived:
                self._deliver_one(*arrived[0])
                arrived.popleft()
        finally:
            # A consumer failed: what it was not given goes back, or it would be renewed here and never begun.
            for _, tag, text in reversed(arrived):
                if self.ledger.message(tag) is None:
                    self.ledger.move(tag, text)
        return came

    def _deliver_one(self, queue: str, tag: str, text: bytes) -> None:
        try:
            payload = from_json(text)
            payload["properties"]["delivery_tag"]
        except (ValueError, TypeError, LookupError):
            self.ledger.move(tag, text, wire.UNDECODABLE)
            return
        try:
            self.connection._deliver(payload, queue)  # noqa: SLF001 kombu's own custom
        except UnreadableMessageError:
            self.ledger.move(tag, text, wire.UNDECODABLE)
            return
        if queue in self._no_ack_queues:
            self.ledger.ack(tag)

    def _forget_sent(self) -> None:
        """The reply is lost: say it again, the fence makes a second time harmless."""
        self.ledger.put_back(*self._sent)
        self._sent = ([], [])

    def _load_scripts(self) -> None:
        with self.conn_or_acquire() as client:
            for text in _SCRIPTS.values():
                client.script_load(text)

    # --- beside it: a connection from the pool ----------------------------------------------------------------

    def flush(self) -> None:
        """Tell Redis what has been decided, when no fetch is going to."""
        while self.ledger.undelivered_verdicts:
            acks, moves = self.ledger.take_verdicts(VERDICTS_AT_ONCE)
            waiting, self._sent = self._sent, (acks, moves)
            try:
                self._call("fetch", *self._turn([], []))
            except (RedisError, OSError):
                self.ledger.put_back(acks, moves)
                raise
            finally:
                self._sent = waiting

    def renew(self) -> None:
        """Keep the messages in flight invisible to others."""
        held = self.ledger.renewable()
        for start in range(0, len(held), VERDICTS_AT_ONCE):
            some = held[start : start + VERDICTS_AT_ONCE]
            tags = [tag for tag, _ in some]
            try:
                reply = self._call("renew", 1, self.unacked_index_key, *(part for pair in some for part in pair))
            except (RedisError, OSError):
                self.ledger.unsure(tags)
                raise
            now, *gone = map(bytes_to_str, reply)
            self.ledger.renewed(tags, now, gone)

    def restore_expired(self) -> None:
        """Put messages back that nobody renewed for the visibility timeout."""
        keys = (2, self.unacked_key, self.unacked_index_key)
        found = self._call("expired", *keys, self.visibility_timeout, RESTORE_AT_ONCE)
        for tag, score, value in zip(found[0::3], found[1::3], found[2::3], strict=True):
            payload, exchange, routing_key = loads(bytes_to_str(value))
            step = self._get_message_priority(payload, reverse=False)
            tenant = (payload.get("headers") or {}).get(wire.TENANT_HEADER)
            for queue in self._lookup(exchange, routing_key):
                place = wire.waiting_list(queue, tenant) if tenant else self._q_for_pri(queue, step)
                move = Move(bytes_to_str(tag), bytes_to_str(score), place, dumps(payload))
                self.ledger.move_unheld(move)
                self.ledger.counts.restored += 1
        if found:
            log.warning("restored %d messages of workers that are gone", len(found) // 3)
            sentry.worker_lost(len(found) // 3)
            self.flush()
            self._looks_at_all = True

    def release(self) -> None:
        """Put everything back that is not acknowledged: for a worker that stops, when its tasks have ended."""
        for tag, message in list(self.qos._delivered.items()):  # noqa: SLF001 kombu's own custom
            self.ledger.move(tag, dumps(message._raw))  # noqa: SLF001
        self.flush()

    def _call(self, name: str, *arguments: Any) -> Any:
        with self.conn_or_acquire() as client:
            try:
                return client.execute_command("EVALSHA", self._shas[name], *arguments)
            except NoScriptError:
                self._load_scripts()
                return client.execute_command("EVALSHA", self._shas[name], *arguments)

    def close(self) -> None:
        """Read what is on its way first, so that it is known and goes back."""
        if self._in_poll:
            try:
                self._brpop_read()
            except (Empty, RedisError, OSError, AttributeError):
                self._in_poll = None
        if not self.closed:
            try:
                self.flush()
            except (RedisError, OSError):
                log.info("acknowledgements wait for the next connection")
            # From here on a message is in flight as long as a task holds it, and no longer.
            self.qos._delivered.clear()  # noqa: SLF001 kombu's own custom
        super().close()


class Transport(stock.Transport):
    Channel = Channel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)
        options = self.client.transport_options
        visibility_seconds = options.get("visibility_timeout", Channel.visibility_timeout)
        loop.call_repeatedly(FLUSH_SECONDS, self._each, "flush")
        loop.call_repeatedly(visibility_seconds / 4, self._each, "renew")

    def _each(self, verb: str) -> None:
        """A connection that is gone is noticed, and made anew, by the loop that reads it."""
        for channel in list(self.cycle._channels):  # noqa: SLF001 kombu's own custom
            try:
                getattr(channel, verb)()
            except (RedisError, OSError) as error:
                log.info("%s waits for Redis: %s", verb, type(error).__name__)


class PrimaryConnection(SentinelManagedConnection):
    """A server that is no longer the primary, or not yet, is a lost connection: the next one asks the sentinels."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except ResponseError as error:
            if not is_away(error):
                raise
            self.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            raise RedisConnectionError(f"the primary is changing: {str(error).split(' ', 1)[0]}") from None


class SentinelChannel(Channel, stock.SentinelChannel):
    connection_class = PrimaryConnection
    sentinel_kwargs = SENTINEL_OPTIONS

    def _broker(self) -> tuple[object, ...]:
        return (self.master_name, self.connection.client.virtual_host)


class SentinelTransport(Transport):
    default_port = stock.SentinelTransport.default_port
    Channel = SentinelChannel
