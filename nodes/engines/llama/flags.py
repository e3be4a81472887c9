"""Pure. llama.cpp's own parameters, as words after `--`: `-- --n-gpu-layers 20 --n-threads 4`."""

from collections.abc import Sequence

KINDS: dict[str, type] = {  # those that are not ours to choose; the others are decided by our own flags
    "n_threads": int,
    "n_threads_batch": int,
    "n_ubatch": int,
    "n_gpu_layers": int,
    "main_gpu": int,
    "split_mode": int,
    "flash_attn_type": int,
    "rope_scaling_type": int,
    "rope_freq_base": float,
    "rope_freq_scale": float,
    "yarn_ext_factor": float,
    "yarn_attn_factor": float,
    "yarn_beta_fast": float,
    "yarn_beta_slow": float,
    "yarn_orig_ctx": int,
    "offload_kqv": bool,
    "op_offload": bool,
    "use_extra_bufts": bool,
    "check_tensors": bool,
}
BOOLS = {"true": 1, "false": 0, "1": 1, "0": 0}


def settings_of(words: Sequence[str]) -> dict[str, float]:
    """What the words say, by name. Raises ValueError."""
    found: dict[str, float] = {}
    rest = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while rest:
        flag = rest.pop(0)
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in KINDS:
            known = ", ".join("--" + one.replace("_", "-") for one in KINDS)
            raise ValueError(f"{flag!r} is none of llama.cpp's parameters that can be set here: {known}")
        found[name] = _number(flag, name, rest.pop(0) if rest else "")
    return found


def _number(flag: str, name: str, text: str) -> float:
    kind = KINDS[name]
    try:
        return BOOLS[text] if kind is bool else int(text) if kind is int else float(text)
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"{flag} is {text!r}: it must be {wanted}") from None
