"""Reading back what was decided and why."""
