"""The worker's app, made from the environment: what `celery -A shoal_worker.main` loads."""

from shoal_worker.app import configure_logs, connect_process, make_app
from shoal_worker.settings import WorkerSettings

settings = WorkerSettings.load()
configure_logs(settings.log_level)
app = make_app(settings)
connect_process(settings)
