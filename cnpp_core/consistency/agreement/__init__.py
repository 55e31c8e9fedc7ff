"""What agreement with a condition means, kind by kind: how it is read, compared and shown."""
