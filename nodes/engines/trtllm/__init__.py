"""Pure. TensorRT-LLM, by its LLM API. It has not been run on hardware: written from its sources, tested with a fake."""
