"""Shell. The HTTP frontend: OpenAI's interface on one side, the mesh on the other. It owns what it takes."""
