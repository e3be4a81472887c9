"""Pure. The flags of `wiremesh worker`."""

from math import inf

from mesh.options import OptionRefused
from nodes.engine_options import ENGINES, KV_BYTES, STAGING_BYTES, WAYS, EngineOptions
from nodes.faults import FORM
from nodes.tiers.options import DISK_FORM, STORE_FORM, USES

QUEUE = 256  # requests that wait here: more would wait longer than a client does
THREADS_MAX = 1024
START_S = 3_600.0  # the largest models load and compile for most of an hour


class WorkerFlags(EngineOptions, frozen=True):
    """What `wiremesh worker` can be told, besides how to join."""

    queue: int = QUEUE
    threads: int = 0
    start_s: float = START_S

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.queue <= 1_000_000:
            raise OptionRefused(f"--queue is {self.queue}: it must be 0 or more")
        if not 0 <= self.start_s < inf:
            raise OptionRefused(f"--start-s is {self.start_s}: it must be seconds, 0 or more")
        if not 0 <= self.threads <= THREADS_MAX:
            raise OptionRefused(f"--threads is {self.threads}: it must be between 0 and {THREADS_MAX}")


WORKER_WORDS_HELP = "words after -- are for the engine, as it knows them"
WORKER_HELP = {
    "model": "what to serve: a Hugging Face model directory, or demo (default: demo)",
    "name_as": "the name that clients ask for (default: the directory's)",
    "engine": f"{', '.join(ENGINES)}: numpy computes the model on this CPU; transformers any causal model of that "
    "library, on a CPU or GPU; llama a GGUF file, by llama.cpp; vllm, sglang and others run by themselves; openai is "
    "whatever serves --url; sim only pretends, with the batching, cache and timing of a GPU (default: numpy)",
    "device": "transformers: cpu, cuda, cuda:1 ... (default: the first GPU, or the CPU)",
    "dtype": "transformers: auto, float32, float16 or bfloat16 (default: auto, as the model's files say); llama: "
    "of its cache, auto, float32 or float16",
    "role": "worker does whole requests; prefill computes prompts and hands their cache over; decode goes on with what "
    "was handed over; encoder makes embeddings of pictures, sounds and clips (default: worker)",
    "enforce_disagg": "decode: refuse what no prefill worker has computed, instead of computing it here",
    "kv_staging_bytes": "memory for caches on their way to or from other workers, taken as it is used; 0: none are "
    f"moved (default: {STAGING_BYTES}, 256 MiB)",
    "transports": f"how caches are moved, the best first: shared, bulk, nixl (default: {WAYS})",
    "logits_processor": "numpy, transformers, llama, trtllm, vllm: MODULE:NAME of something that changes a row of "
    "logits in place before a token is chosen, called with (input_ids, logits); repeat it for more",
    "native": "vllm, sglang, trtllm, llama: one word of the engine's own flags; words after -- are the same, as in: "
    "wiremesh worker --engine vllm --model DIR -- --max-num-seqs 8",
    "url": "openai: the server's OpenAI-compatible URL, as in http://127.0.0.1:8001/v1; --model is the directory of "
    "the model there, of which only the tokenizer is read",
    "url_model": "openai: the model's name there (default: the only one, or that of --name-as)",
    "url_key_file": "openai: a file with the server's API key (default: none is sent)",
    "diffusion": "transformers, trtllm: make pictures (image) or clips (video) of texts, with the diffusers library or "
    "TensorRT-LLM's VisualGen; --model is the directory of a diffusers pipeline",
    "pool": "the pool that it belongs to, where 'wiremesh pools' places requests (default: the one called default)",
    "slots": "requests that run at once (default: 32, 16 for llama, 256 for sim)",
    "queue": f"requests that may wait for a slot; more are sent elsewhere or refused (default: {QUEUE})",
    "context": "positions of one request, prompt and answer (default: what the model has)",
    "block_tokens": "positions in one block of the key-value cache (default: 16)",
    "blocks": "sim: blocks of the key-value cache (default: 16384)",
    "kv_bytes": f"memory for the key-value cache, not of sim (default: {KV_BYTES}, 1 GiB)",
    "step_tokens": "positions that one step computes; longer prompts are cut (default: 512, or 8192 for sim)",
    "caching": "keep the cache of prompts that begin alike (default: yes)",
    "hand_over": "when the cache is full, move the last request to another worker instead of computing it again later",
    "exact": "numpy: each request's tokens depend on nothing but the request, to the last bit; slower",
    "start_s": f"give up if the engine has not started by then; 0 waits for ever (default: {START_S:.0f})",
    "threads": "threads of one matrix product (default: the environment's OPENBLAS_NUM_THREADS, or 1)",
    "speedup": "sim: divide all times by this; 0 is as fast as it can (default: 1)",
    "prefill_ms": "sim: a measured point TOKENS:MS of how long a step with so many prompt tokens takes; repeat it "
    "for a table (default: a formula)",
    "decode_ms": "sim: likewise for the decodes of a step, by the tokens of all sequences that decode; a single point "
    "is a constant",
    "fault": f"sim: fail, to see what the mesh does: {FORM}. Without @STEP, SIGUSR2 begins and ends it",
    "kv_host_bytes": "host memory for blocks that the cache has no room for (default: none, or 256 MiB with --kv-disk "
    "or --kv-store)",
    "kv_disk": f"{DISK_FORM}: blocks go there too, and a worker that is started again finds them",
    "kv_store": f"{STORE_FORM}: a directory or bucket that all workers of a model share",
    "kv_uses": f"requests that must have used a block before it is written there (default: {USES}; 1: all are)",
    "poison": "sim: a token id; a prompt that has it crashes the engine",
}
