"""The worker's app, made from the environment: what `celery -A shoal_worker.main` loads."""

from shoal_worker import guard, logs
from shoal_worker.app import connect_process, make_app
from shoal_worker.settings import WorkerSettings

settings = WorkerSettings.load()
logs.configure(settings.log_level)
guard.check(settings)
app = make_app(settings)
connect_process(settings)
