"""Pure. Engines: what turns tokens into tokens. `contract` is what each of them keeps."""
