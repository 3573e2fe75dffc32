"""For which faults no worker starts: those that lose jobs or money without a word.

The words are the doctor's. A server that is merely away is no such fault: workers wait for it.
"""

import asyncio

import structlog
from redis.exceptions import RedisError

from shoal.errors import SettingsError
from shoal.redis_url import certificate_fault, in_words
from shoal_worker.doctor import redis
from shoal_worker.doctor.findings import Finding, Grade
from shoal_worker.doctor.places import open_once, redis_places
from shoal_worker.settings import WorkerSettings
from shoal_worker.stores import migrations

#: A server that does not answer by then is away.
LOOK_SECONDS = 3.0

log = structlog.get_logger()


def check(settings: WorkerSettings) -> None:
    """Raises `SettingsError` with all that keeps a worker from starting, a line each."""
    if settings.in_postgres:
        migrations.check(settings.results)
    found = asyncio.run(_look(settings))
    for finding in found:
        if finding.grade == Grade.WARNING:
            log.warning("check", found=finding.line)
    faults = [finding.line for finding in found if finding.grade == Grade.FAULT]
    if faults:
        raise SettingsError("\n".join(faults))


async def _look(settings: WorkerSettings) -> list[Finding]:
    found: list[Finding] = []
    for url, place in redis_places(settings):
        client = open_once(url)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                facts = await redis.info_of(client)
            found += redis.startup_findings(facts, place, is_trusted=settings.redis_trusted)
        except (RedisError, OSError, TimeoutError) as error:
            if certificate_fault(error):
                found.append(redis.away(in_words(error), place))
        finally:
            await client.aclose()
    return found
