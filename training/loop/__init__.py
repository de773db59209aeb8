"""In: a run's settings. Out: a trained encoder's checkpoint, with logs and a report."""
