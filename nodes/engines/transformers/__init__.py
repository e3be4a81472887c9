"""Shell. The transformers engine: any causal model of Hugging Face's library, on a CPU or a GPU."""
