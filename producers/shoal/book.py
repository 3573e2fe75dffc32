"""The book of jobs that the settings name: in Redis or in Postgres, with the way from there to the queue."""

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from shoal.errors import SettingsError
from shoal.ports import JobBook
from shoal.publisher import open_publisher
from shoal.redis_jobs import RedisJobs
from shoal.redis_url import open_client
from shoal.settings import ProducerSettings
from shoal.signing import Signer


def job_book(settings: ProducerSettings) -> JobBook:
    """Where the settings keep jobs, with the way from there to the queue."""
    signer = Signer.of(settings.signing_keys)
    publisher = open_publisher(settings.queue.get_secret_value()) if settings.has_outbox else None
    if not settings.in_postgres:
        client = open_client(
            settings.results.get_secret_value(),
            socket_timeout=30,
            socket_connect_timeout=5,
            socket_keepalive=True,
            health_check_interval=25,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), 3),
            max_connections=64,
        )
        return RedisJobs(client, signer, publisher)
    assert publisher is not None
    try:
        from shoal.postgres import Database
        from shoal.postgres_jobs import PostgresJobs
    except ModuleNotFoundError as error:
        raise SettingsError(f"SHOAL_RESULT_URL needs {error.name}: pip install 'shoal[postgres]'") from None
    return PostgresJobs(Database(settings.results), signer, publisher)
