"""Remote control: Celery's own, so that any Celery worker and Flower understand it."""

from celery import Celery
from pydantic import SecretStr


def revoke(redis_url: SecretStr, job_id: str) -> None:
    """Tell all workers to end a running job. Blocks for one round trip."""
    app = Celery("shoal", broker=redis_url.get_secret_value(), set_as_current=False)
    try:
        app.control.revoke(job_id, terminate=True)
    finally:
        app.close()
