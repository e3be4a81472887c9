"""Shell. A model's directory without weights: made in seconds, and loaded by any server of simulated tokens.

    python -m bench.tinymodel [FOLDER]

The vocabulary is a byte-level BPE of 8,192 pieces, trained on the standard library's own sources; only what is ASCII,
so that every token spells a few plain characters. Where nothing changed, the same Python makes the same files.
"""

import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

FOLDER = Path.home() / ".cache" / "wiremesh-bench" / "tinymodel"
VOCABULARY = 8192
CONTEXT_TOKENS = 32_768
TEXT_CHARS_MAX = 4_000_000  # more text makes the pieces no better, and the training slower
BEGIN, END, TURN, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|turn|>", "<|pad|>"
SPECIALS = (BEGIN, END, TURN, PAD, "<|user|>", "<|assistant|>", "<|system|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|turn|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def lines() -> Iterator[str]:
    """The text to train on."""
    chars = 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for line in path.read_text(encoding="utf-8", errors="ignore").splitlines(keepends=True):
            if line.isascii():
                chars += len(line)
                yield line
        if chars > TEXT_CHARS_MAX:
            return


def tokenizer(text: Iterable[str]) -> Any:
    """A vocabulary made for a text; the special tokens come first."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(text, trainer)
    return library


def configurations(vocabulary: int) -> dict[str, dict[str, Any]]:
    """The files beside `tokenizer.json`. The sizes are those of no model: nobody computes with them."""
    begin, end, turn, pad = (SPECIALS.index(name) for name in (BEGIN, END, TURN, PAD))
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "vocab_size": vocabulary,
            "max_position_embeddings": CONTEXT_TOKENS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "hidden_act": "silu",
            "torch_dtype": "bfloat16",
            "tie_word_embeddings": True,
            "bos_token_id": begin,
            "eos_token_id": end,
            "pad_token_id": pad,
        },
        "generation_config.json": {"bos_token_id": begin, "eos_token_id": [end, turn]},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT_TOKENS,
            "bos_token": BEGIN,
            "eos_token": END,
            "pad_token": PAD,
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE,
        },
        "special_tokens_map.json": {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD},
    }


def make(folder: Path, text: Iterable[str] | None = None) -> None:
    """Write the directory; what is there is replaced. A short text makes a small vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    library = tokenizer(lines() if text is None else text)
    for name, content in configurations(library.get_vocab_size()).items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    library.save(str(folder / "tokenizer.json"))  # the last: who finds it finds all


def made(folder: Path = FOLDER) -> Path:
    """The directory, made if it is not there."""
    if not (folder / "tokenizer.json").exists():
        make(folder)
    return folder


def main(arguments: list[str]) -> int:
    """The command."""
    folder = Path(arguments[0]) if arguments else FOLDER
    make(folder)
    print(f"made {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
