"""Processes: embedded Redis, supervisor, learner, keeper, doctor."""
