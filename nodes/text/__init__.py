"""Pure. Between text and tokens: tokenizer, detokenizer, stop strings, chat templates."""
