"""A real llama.cpp server with a random model of 27,000 parameters: milliseconds an answer, nonsense, real usage.

As a program (`python llamacpp.py MODEL.gguf`) it writes the model when it is not there, serves it and prints the URL. With
`slow` behind that the model is one of three million parameters, whose prompts take a while to read.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path

MODEL = "tiny"
MISSING = [name for name in ("gguf", "xllamacpp") if importlib.util.find_spec(name) is None]
ABSENT = f"no llama.cpp here: pip install {' '.join(MISSING)}"

# Smallest shapes that the llama architecture accepts; 256 byte tokens and three special ones are the vocabulary.
SMALLEST = 32, 64, 1, 2  # width, inner width, layers, heads
SLOW = 256, 512, 4, 4
CONTEXT = 4096
END = 2  # the token that ends an answer
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def write_model(path: Path, shape: tuple[int, int, int, int] = SMALLEST) -> None:
    """Write a random llama: always the same one of that shape."""
    import gguf
    import numpy

    width, inner, layers, heads = shape
    random = numpy.random.default_rng(1)
    tokens = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, *[gguf.TokenType.BYTE] * 256]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(MODEL)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)

    def add(name: str, *size: int) -> None:
        writer.add_tensor(f"{name}.weight", (random.standard_normal(size) * 0.3).astype(numpy.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", numpy.ones(width, numpy.float32))

    add("token_embd", len(tokens), width)
    for layer in range(layers):
        block = f"blk.{layer}"
        add_norm(f"{block}.attn_norm")
        add_norm(f"{block}.ffn_norm")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{part}", width, width)
        add(f"{block}.ffn_gate", inner, width)
        add(f"{block}.ffn_up", inner, width)
        add(f"{block}.ffn_down", width, inner)
    add_norm("output_norm")
    # Its end token is never drawn: the others' rows are large, so that some of them always outweigh one of zeros.
    output = (random.standard_normal((len(tokens), width)) * 3.0).astype(numpy.float32)
    output[END] = 0.0
    writer.add_tensor("output.weight", output)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(path: Path, shape: tuple[int, int, int, int] = SMALLEST) -> None:
    """Serve until the process is ended."""
    import xllamacpp

    if not path.exists():
        write_model(path, shape)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {MODEL}
    params.port = 0
    params.n_ctx = CONTEXT
    params.n_parallel = 2
    params.n_predict = 64
    params.cpuparams.n_threads = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), SLOW if "slow" in sys.argv[2:] else SMALLEST)
