"""Shell. The llama engine: models in GGUF files, computed by llama.cpp, on a CPU or whatever it was built for."""
