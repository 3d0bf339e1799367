"""Any long run: tasks, executors, journal, lock, log. Knows no volume and no network."""
