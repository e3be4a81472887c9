"""Pure. Pictures, sounds and clips of a request: from what a client sent to the rows that a model reads."""
