"""Remote control: Celery's own, so that any Celery worker and Flower understand it."""

from celery import Celery
from pydantic import SecretStr

from shoal.publisher import is_amqp, ssl_options
from shoal.redis_url import SENTINEL_OPTIONS, Sentinels, is_sentinel, tls_options, without_options


def client_app(queue_url: SecretStr) -> Celery:
    """Celery's stock client of the queue: no tasks, and no results."""
    url = queue_url.get_secret_value()
    known = Sentinels.of(url) if is_sentinel(url) else None
    broker = known.kombu_url() if known else url if is_amqp(url) else without_options(url)
    app = Celery("shoal", broker=broker, backend="disabled://", set_as_current=False)
    if known:
        app.conf.broker_transport_options = {"master_name": known.master, "sentinel_kwargs": SENTINEL_OPTIONS}
    else:
        app.conf.broker_use_ssl = ssl_options(url) if is_amqp(url) else tls_options(url)
    return app


def revoke(queue_url: SecretStr, job_id: str) -> None:
    """Tell all workers to end a running job, whether it came alone or with others. Blocks for a round trip or two."""
    with client_app(queue_url) as app:
        app.control.revoke(job_id, terminate=True)
        app.control.broadcast("shoal_cancel", arguments={"job_id": job_id})
