"""What Flower looks at: the same queue through Celery's stock client. Never the results: its API would show answers."""

from shoal import wire
from shoal.control import client_app
from shoal_worker.settings import WorkerSettings

app = client_app(WorkerSettings.load().queue)
app.conf.update(task_default_queue=wire.QUEUE, accept_content=["json"])
