"""Pure. Guided decoding: what a guide allows next. The library that reads guides is optional (`wiremesh[guided]`)."""
