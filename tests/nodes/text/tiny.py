"""Two small tokenizers: byte-level BPE, trained here, and one with byte fallback as Llama 2 has it."""

import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from nodes.text.tokenizer import ModelFiles
from nodes.text.tokenizer import Tokenizer as Ours

TEXT = "hello world, this is a test of café and 日本語 and 😀👩‍👩‍👧 in tokens, which stop and go\n"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|eot|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE}


@cache
def byte_level() -> Ours:
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<|eot|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator([TEXT] * 3, trainer)
    return Ours(
        ModelFiles(
            library.to_str().encode(),
            tokenizer_config=json.dumps(CONFIG).encode(),
            generation_config=b'{"eos_token_id": [1, 2]}',
            config=b'{"max_position_embeddings": 2048}',
        )
    )


@cache
def byte_fallback() -> Ours:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "h", "e", "l", "o", "▁hello", "▁world", "!", "é"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    library = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<s>", "</s>")])
    return Ours(ModelFiles(library.to_str().encode()))
