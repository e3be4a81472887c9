"""Pure. vLLM on the mesh: its `AsyncLLM` in the worker's process, its engine cores in processes of their own."""
