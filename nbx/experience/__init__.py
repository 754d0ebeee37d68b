"""What happened to the customer: life cycle of slots, causes, relationship, and the fold that changes state."""
