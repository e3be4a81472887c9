"""Shell. Makes the demo model: tokenizer, training, files, and a comparison with the engine that will serve it.

    python launch/demo_model/train.py --out FIRST
    python launch/demo_model/train.py --out SECOND --start FIRST --cut-share 0.85 --rate 0.5
    python launch/demo_model/train.py --out DIR --start FIRST SECOND --steps 0

It needs `torch` beside Wiremesh, one core, and the time that README.md says.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from launch.demo_model import transformer
from launch.demo_model.corpus import Corpus, Turn, conversation, corpus_of, dressed, filled
from launch.demo_model.transformer import Mover, fresh, hidden, logits, torch
from nodes.contract.engine import Job, Sampling
from nodes.engines.numpy.attention import Span
from nodes.engines.numpy.engine import NumpyEngine, Settings, configuration
from nodes.engines.numpy.model import load
from nodes.engines.numpy.safetensors import opened

FOLDER = Path(__file__).parent
SEED = 1
VOCABULARY = 1536
CONTEXT = 1024
END, SYSTEM, USER, ASSISTANT = SPECIALS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": transformer.EPSILON,
    "rope_theta": transformer.THETA,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "torch_dtype": "float16",
    "bos_token_id": None,
    "eos_token_id": 0,
}
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set role = {'system': 'system', 'developer': 'system', 'assistant': 'assistant'}.get(message['role'], 'user')"
    " -%}"
    "{{- '<|' + role + '|>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] | trim -}}"
    "{%- elif message['content'] -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] | trim -}}{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
BATCH_TOKENS = 4096
POOL = 1024  # conversations that are made at once and sorted by length, so that little is padded
PLAIN_SHARE = 0.04  # of the sequences are bare answers, for the completions endpoint
CUT_TOKENS = 10  # of a cut answer: which one it is shows in its first tokens, and the rest is learned quickly
WARM_STEPS = 60
DECAY_SHARE = 0.5  # of the steps, at the end, with a falling rate
REPORT_STEPS = 50
COMPARED_TOKENS = 200
Sequence = tuple[list[int], list[bool]]  # tokens, and which of them are learned


def main() -> int:
    parser = argparse.ArgumentParser(description="Train Wiremesh's demo model.")
    parser.add_argument("--out", type=Path, required=True, help="the model's directory")
    parser.add_argument("--steps", type=int, default=2000, help=f"of {BATCH_TOKENS} tokens")
    parser.add_argument("--start", type=Path, nargs="+", help="what earlier runs made, to go on from its average")
    parser.add_argument("--cut-share", type=float, default=0.5, help="of the conversations, whose last answer is cut")
    parser.add_argument("--rate", type=float, default=1.0, help="of the largest learning rates")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if torch is None:
        print("PyTorch is missing: pip install torch", file=sys.stderr)
        return 1
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)  # they are ten times as slow, and nothing to a sum
    torch.manual_seed(SEED)
    corpus = corpus_of([path.read_text() for path in sorted((FOLDER / "corpus").glob("*.txt"))])
    if given.start:
        tokenizer, weights = Tokenizer.from_file(str(given.start[0] / "tokenizer.json")), averaged(given.start)
    else:
        tokenizer, weights = trained_tokenizer(corpus, Random(SEED)), fresh(CONFIG)
    given.out.mkdir(parents=True, exist_ok=True)
    write_texts(given.out, tokenizer)
    source = batches(corpus, tokenizer, given.cut_share, Random(f"{SEED} {given.start is None}"))
    write_weights(given.out, weights)
    train(given.out, weights, source, given.steps, given.rate)
    compare(given.out, tokenizer)
    return 0


# --- The tokenizer ------------------------------------------------------------------------------------


def trained_tokenizer(corpus: Corpus, random: Random) -> Tokenizer:
    """Byte-level BPE over every answer and a sample of the questions, as they are typed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [turn.text for _ in range(6000) for turn in conversation(corpus, random)]
    texts += [
        dressed(filled(ask, corpus, random), corpus, random) for topic in corpus.topics for ask in topic.asks[:200]
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokens_of(turns: list[Turn], tokenizer: Tokenizer) -> Sequence:
    """As the chat template renders them; what an assistant says is learned, and its end."""
    tokens: list[int] = []
    learned: list[bool] = []
    for turn in turns:
        body = ids(tokenizer, turn.text + END)
        tokens += ids(tokenizer, f"<|{turn.role}|>") + body
        learned += [False, *[turn.role == "assistant"] * len(body)]
    return tokens[:CONTEXT], learned[:CONTEXT]


# --- The training ---------------------------------------------------------------------------------------


def batches(corpus: Corpus, tokenizer: Tokenizer, cut_share: float, random: Random) -> Iterator[list[Sequence]]:
    """For ever: sequences of similar lengths, about BATCH_TOKENS together."""
    while True:
        pool = sorted(
            (sequence(corpus, tokenizer, cut_share, random) for _ in range(POOL)), key=lambda made: len(made[0])
        )
        found: list[list[Sequence]] = [[]]
        for made in pool:
            if (len(found[-1]) + 1) * len(made[0]) > BATCH_TOKENS:
                found.append([])
            found[-1].append(made)
        random.shuffle(found)
        yield from found


def sequence(corpus: Corpus, tokenizer: Tokenizer, cut_share: float, random: Random) -> Sequence:
    if random.random() >= PLAIN_SHARE:
        turns = conversation(corpus, random)
        tokens, learned = tokens_of(turns, tokenizer)
        rest = max(0, len(ids(tokenizer, turns[-1].text)) - CUT_TOKENS) if random.random() < cut_share else 0
        return tokens[: len(tokens) - rest], learned[: len(tokens) - rest]
    text = random.choice(random.choice(corpus.topics).answers)
    tokens = ids(tokenizer, text + END)
    return tokens, [True] * len(tokens)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text).ids
    return found


def train(out: Path, weights: dict[str, Any], source: Iterator[list[Sequence]], steps: int, rate: float) -> None:
    """Move the weights, by so many batches, and write them now and then: `--start` can go on from there."""
    mover = Mover(weights)
    print(f"{sum(weight.numel() for weight in weights.values()):,} parameters, {steps} steps", flush=True)
    began, seen, losses = time.monotonic(), 0, list[float]()
    for step in range(steps):
        batch = next(source)
        seen += sum(len(tokens) for tokens, _ in batch)
        loss = loss_of(weights, batch)
        loss.backward()
        mover.step(rate * min((step + 1) / WARM_STEPS, (steps - step) / (steps * DECAY_SHARE), 1.0))
        losses.append(loss.item())
        if not (step + 1) % REPORT_STEPS or step + 1 == steps:
            write_weights(out, weights)
            loss_mean, used = np.mean(losses[-REPORT_STEPS:]), time.process_time()
            elapsed = time.monotonic() - began
            print(
                f"step {step + 1}: loss {loss_mean:.4f}, {seen:,} tokens, {elapsed:.0f} s, {used:.0f} s of CPU",
                flush=True,
            )


def loss_of(weights: dict[str, Any], batch: list[Sequence]) -> Any:
    """Cross-entropy of what is learned; a sequence is padded at its end, where nothing looks."""
    length = max(len(tokens) for tokens, _ in batch)
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    learned = torch.zeros(len(batch), length, dtype=torch.bool)
    for row, (made, wanted) in enumerate(batch):
        tokens[row, : len(made)] = torch.tensor(made)
        learned[row, : len(made)] = torch.tensor(wanted)
    rows = hidden(weights, CONFIG, tokens[:, :-1])[learned[:, 1:]]
    return torch.nn.functional.cross_entropy(logits(weights, rows), tokens[:, 1:][learned[:, 1:]])


# --- The files --------------------------------------------------------------------------------------------


def write_texts(folder: Path, tokenizer: Tokenizer) -> None:
    """All but the weights."""
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", CONFIG)
    write_json(
        folder / "generation_config.json",
        {"eos_token_id": 0, "do_sample": True, "temperature": 0.7, "top_p": 0.95},
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "eos_token": END,
            "pad_token": END,
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE,
        },
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_weights(folder: Path, weights: dict[str, Any]) -> None:
    """As safetensors, in float16, which these small numbers fit well."""
    halves = {name: weight.detach().numpy().astype("<f2") for name, weight in weights.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, half in halves.items():
        header[name] = {"dtype": "F16", "shape": half.shape, "data_offsets": [at, at + half.nbytes]}
        at += half.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    content = [len(text).to_bytes(8, "little"), text, *(half.tobytes() for half in halves.values())]
    (folder / "model.safetensors").write_bytes(b"".join(content))


def read_weights(folder: Path) -> dict[str, Any]:
    with opened(folder) as tensors:
        return {name: torch.from_numpy(tensors[name]).requires_grad_() for name in fresh(CONFIG)}


def averaged(folders: list[Path]) -> dict[str, Any]:
    """Of runs of one family: better than each of them, as if the last had ended with a falling rate."""
    many = [read_weights(folder) for folder in folders]
    names = many[0]
    return {name: torch.stack([one[name].detach() for one in many]).mean(0).requires_grad_() for name in names}


# --- The comparison ---------------------------------------------------------------------------------------


def compare(folder: Path, tokenizer: Tokenizer) -> None:
    """The logits of PyTorch and of the engine for one text, and the greedy answers of both."""
    weights = read_weights(folder)
    prompts = [
        ids(tokenizer, f"{USER}{question}{END}{ASSISTANT}")
        for question in ("What is Wiremesh?", "what does a router do", "Hello!", "Why is the sky blue?")
    ]
    with torch.no_grad():
        difference = max(float(np.abs(theirs(weights, prompt) - ours(folder, prompt)).max()) for prompt in prompts)
        same = all(greedy(weights, prompt) == answered(folder, prompt) for prompt in prompts)
    print(f"the engine's logits differ by at most {difference:.1e}; greedy answers are the same: {same}", flush=True)


def theirs(weights: dict[str, Any], prompt: list[int]) -> Any:
    return logits(weights, hidden(weights, CONFIG, torch.tensor([prompt])))[0].numpy()


def ours(folder: Path, prompt: list[int]) -> Any:
    config, _ = configuration(folder)
    model = load(config, folder, CONTEXT, CONTEXT, exact=False)
    places = np.arange(len(prompt))
    return model.logits(np.asarray(prompt), places, places, [Span(0, len(prompt), 0, [(0, len(prompt))])], places)


def greedy(weights: dict[str, Any], prompt: list[int]) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + COMPARED_TOKENS and (len(tokens) == len(prompt) or tokens[-1]):
        tokens.append(int(theirs(weights, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def answered(folder: Path, prompt: list[int]) -> list[int]:
    engine = NumpyEngine(Settings(str(folder)))
    engine.start()
    engine.submit(Job(0, prompt, max_tokens=COMPARED_TOKENS, sampling=Sampling(temperature=0.0)))
    found: list[int] = []
    while not engine.idle():
        found += [token for output in engine.step().outputs for token in output.tokens]
    return found


if __name__ == "__main__":
    sys.exit(main())
