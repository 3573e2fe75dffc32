"""What Flower looks at: the same queue through Celery's stock client. Never the results: its API would show answers."""

from celery import Celery

from shoal import wire
from shoal_worker.settings import WorkerSettings

_url = WorkerSettings.load().queue.get_secret_value()
app = Celery("shoal", broker=_url, backend="disabled://")
app.conf.update(task_default_queue=wire.QUEUE, accept_content=["json"])
