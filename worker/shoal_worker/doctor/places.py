"""Each Redis that the settings name, and how it is reached."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shoal.publisher import is_amqp
from shoal.redis_url import Sentinels, is_sentinel, open_client, tls_options
from shoal_worker.doctor.addresses import is_loopback
from shoal_worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Place:
    """What is kept there and how it is reached. `name` is for people; `setting` is the variable that names it."""

    name: str
    setting: str
    host: str
    has_tls: bool
    has_password: bool
    verifies: bool = True
    has_replicas: bool = False
    #: Whether jobs that it loses can be queued again from Postgres.
    is_recoverable: bool = False


def redis_places(settings: WorkerSettings) -> list[tuple[SecretStr, Place]]:
    """Each Redis that the settings name, once, with what is kept there."""
    queue, results = settings.queue, settings.results
    both = queue == results
    places = []
    if not is_amqp(queue.get_secret_value()):
        setting = "SHOAL_QUEUE_URL" if settings.queue_url else "SHOAL_REDIS_URL"
        places.append(
            (queue, _place(queue, "the Redis" if both else "the queue's Redis", setting, settings.in_postgres))
        )
    if not (both or settings.in_postgres):
        setting = "SHOAL_RESULT_URL" if settings.result_url else "SHOAL_REDIS_URL"
        places.append((results, _place(results, "the results' Redis", setting, is_recoverable=False)))
    return places


def _place(url: SecretStr, name: str, setting: str, is_recoverable: bool) -> Place:
    text = url.get_secret_value()
    tls = tls_options(text)
    if is_sentinel(text):
        known = Sentinels.of(text)
        hosts, has_password = [host for host, _ in known.nodes], known.password is not None
    else:
        parts = urlsplit(text)
        hosts, has_password = [unquote(parts.hostname or "")], bool(parts.password)
    return Place(
        name=name,
        setting=setting,
        host=next((host for host in hosts if not is_loopback(host)), hosts[0]),
        has_tls=tls is not None,
        has_password=has_password,
        verifies=tls is None or bool(tls["ssl_cert_reqs"] and tls["ssl_check_hostname"]),
        has_replicas=is_sentinel(text),
        is_recoverable=is_recoverable,
    )


def open_once(url: SecretStr) -> Redis:
    """A client that asks once: whoever is away is told of at once."""
    return open_client(url.get_secret_value(), socket_timeout=10, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0))
