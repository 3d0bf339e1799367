"""Long runs of any kind: tasks, executors, journal, lock, log; without volumes or networks."""
