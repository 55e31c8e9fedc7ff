"""Pictures of numbers: legends, sheets and plots."""
