"""Shell. The SGLang engine: `sgl.Engine`, alone or as one half of prefill and decode."""
