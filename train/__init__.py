"""Training on the command line: settings, models and data from files, the run, what it writes."""
