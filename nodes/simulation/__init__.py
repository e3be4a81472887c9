"""Pure. Serving in the simulator: real engines behind the real host core, under all that goes wrong. See README.md."""
