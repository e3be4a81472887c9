"""Pure. The numpy engine: a decoder-only transformer on any CPU, from a Hugging Face directory. Start at `engine`."""
