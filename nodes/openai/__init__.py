"""Pure. OpenAI's HTTP interface as data: requests in, responses out, nothing of sockets or of the mesh."""
