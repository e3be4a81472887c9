"""For tests only: as `few_models`, for models that see: SGLANG_EXTERNAL_MODEL_PACKAGE=few_seers."""
