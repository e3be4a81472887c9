"""For tests only: with SGLANG_EXTERNAL_MODEL_PACKAGE=few_models SGLang starts without importing all its models."""
