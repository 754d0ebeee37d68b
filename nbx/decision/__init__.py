"""The choice itself: filters, arbitration, slate, record, replay and the service around them."""
