"""What is known about a customer: schema, state, aggregates, encoding and the store."""
