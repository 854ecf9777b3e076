"""What the Prefect UI shows: tasks, artifacts, events and turns. Each is a decorator and one call into `avatar`."""
