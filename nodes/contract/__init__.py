"""Pure. What is asked of an engine, and what it says: the words that all nodes share with all engines."""
