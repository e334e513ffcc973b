"""A GGUF loaded by llama.cpp: weights, vocabulary, facts."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from embedd.engine.llama.binding import lib
from embedd.engine.llama.library import fill_params, open_library, take_log_lines
from embedd.errors import ModelLoadError
from embedd.types import Labels

LOAD_WITHOUT_MMAP = 0
LOAD_MODE_AUTO = -1
ONE_GPU = 0

_VALUE_BYTES = 64  # of a number, or the name of an architecture that llama.cpp knows

Report = Callable[[float], None]


class LlamaModel:
    """A loaded GGUF, for `Context` to compute with.

    Attributes:
        handle: llama.cpp's pointer to the model; used only inside this package.
        vocab: llama.cpp's pointer to the vocabulary.

    Args:
        parts: Further files of a split GGUF, in order.
        vocabulary_only: Load no weights; `width`, `context_length` and `scores` are not set.
        with_weights: False leaves the weights out of memory: all facts are known, and no
            context may compute with the model.
        report: Called with the share loaded so far, 0 … 1.

    Raises:
        ModelLoadError: llama.cpp refuses the file; the message has its last log lines.
    """

    def __init__(
        self,
        path: Path,
        *,
        parts: Sequence[Path] = (),
        extra_buffers: bool,
        gpu_layers: int | None = None,
        main_gpu: int | None = None,
        use_mmap: bool = True,
        check_tensors: bool = False,
        vocabulary_only: bool = False,
        with_weights: bool = True,
        report: Report = lambda _share: None,
    ) -> None:
        open_library()
        take_log_lines()
        # Kept as an attribute: llama.cpp calls it until the load returns.
        self._callback = lib.llama_progress_callback(_careful(report))
        params = fill_params(
            lib.llama_model_default_params(),
            n_gpu_layers=-1 if gpu_layers is None else gpu_layers,
            use_extra_bufts=extra_buffers,
            load_mode=LOAD_MODE_AUTO if use_mmap and with_weights else LOAD_WITHOUT_MMAP,
            no_alloc=not with_weights,
            check_tensors=check_tensors,
            vocab_only=vocabulary_only,
            progress_callback=self._callback,
        )
        if main_gpu is not None:
            fill_params(params, split_mode=ONE_GPU, main_gpu=main_gpu)
        self.handle: Any = _load([path, *parts], params)
        if not self.handle:
            raise ModelLoadError(f"llama.cpp cannot load the model: {_explain()}")
        self.vocab: Any = lib.llama_model_get_vocab(self.handle)
        self.vocabulary: int = lib.llama_vocab_n_tokens(self.vocab)
        if vocabulary_only:
            return
        self.width: int = lib.llama_model_n_embd_out(self.handle)
        self.context_length: int = lib.llama_model_n_ctx_train(self.handle)
        self.scores: int = lib.llama_model_n_cls_out(self.handle)
        self.has_encoder = bool(lib.llama_model_has_encoder(self.handle))

    @property
    def architecture(self) -> str:
        """``general.architecture`` of the file."""
        return self.read_key("general.architecture")

    @property
    def state_bytes(self) -> int:
        """Bytes of the state that recurrent layers keep of one sequence, at most; 0 without any.

        As if all layers were recurrent: the file need not say which are.
        """
        own = self.architecture
        inner, size, layers = (
            int(self.read_key(f"{own}.{key}") or 0)
            for key in ("ssm.inner_size", "ssm.state_size", "block_count")
        )
        return 4 * inner * size * layers

    @property
    def labels(self) -> Labels:
        """Names of the head's scores, "" for a score without a name."""
        names = (lib.llama_model_cls_label(self.handle, at) for at in range(self.scores))
        return tuple((name or b"").decode("utf-8", "replace") for name in names)

    @property
    def pair_template(self) -> str | None:
        """The file's template with ``{query}`` and ``{document}``, or None."""
        template: bytes | None = lib.llama_model_chat_template(self.handle, b"rerank")
        return None if template is None else template.decode("utf-8", "replace")

    def read_key(self, key: str) -> str:
        """Return the value of a short key as text, "" if the file does not have it."""
        buffer = ctypes.create_string_buffer(_VALUE_BYTES)
        lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, _VALUE_BYTES)
        return buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        """Free the weights. Every context of the model must be closed before."""
        lib.llama_model_free(self.handle)


def _load(paths: Sequence[Path], params: ctypes.Structure) -> Any:
    names = [str(path).encode() for path in paths]
    if len(names) == 1:
        return lib.llama_model_load_from_file(names[0], params)
    # As a list: in the store a part is named after its digest, not its number.
    array = (ctypes.c_char_p * len(names))(*names)
    return lib.llama_model_load_from_splits(array, len(names), params)


def _careful(report: Report) -> Callable[[float, object], bool]:
    def call(share: float, _: object) -> bool:
        try:
            report(share)
        except OSError:
            return False  # the server is gone: llama.cpp stops loading
        return True

    return call


def _explain() -> str:
    lines = take_log_lines()
    return "; ".join(lines[-5:]) if lines else "no reason given"
