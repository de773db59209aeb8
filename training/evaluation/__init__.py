"""In: an encoder and captioned clips. Out: metrics and a report."""
