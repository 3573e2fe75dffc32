"""The worker: Celery, the model client and the life of a job."""
