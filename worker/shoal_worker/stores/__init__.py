"""Where results, leases and dead letters live. One port (`ports.JobStore`), one module for each database."""
