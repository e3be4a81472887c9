"""Shell. Any OpenAI-compatible server as an engine: vLLM, SGLang, TensorRT-LLM, llama.cpp, Ollama, another mesh."""
