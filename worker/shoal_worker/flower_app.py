"""What Flower looks at: the same queue and results through Celery's stock client."""

from celery import Celery

from shoal import wire
from shoal_worker.settings import WorkerSettings

_url = WorkerSettings.load().redis_url.get_secret_value()
app = Celery("shoal", broker=_url, backend=_url)
app.conf.update(task_default_queue=wire.QUEUE, accept_content=["json"])
