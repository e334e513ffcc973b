"""``python -m benchmarks.onnx FOLDER``: the default model as ``f32.onnx`` and ``int8.onnx``."""

import sys
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel, AutoTokenizer

from benchmarks.libraries import NUM_CTX, find_checkpoint


class MeanPooled(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """A BERT whose output is the mean over its tokens: ``[batch, width]``."""

    def __init__(self, bert: Any) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Pool; both arguments are ``[batch, tokens]``."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * kept).sum(1) / kept.sum(1)


def main() -> None:
    """Export; then quantise the weights, and activations at run time."""
    folder = Path(sys.argv[1])
    source = find_checkpoint()
    model = MeanPooled(AutoModel.from_pretrained(source)).eval()
    tokens = AutoTokenizer.from_pretrained(source)(
        ["an example", "and one that is longer"], padding=True, return_tensors="pt"
    )
    shape = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("tokens", min=2, max=NUM_CTX)}
    torch.onnx.export(
        model,
        (tokens["input_ids"], tokens["attention_mask"]),
        folder / "f32.onnx",
        dynamo=True,
        external_data=False,
        input_names=["input_ids", "attention_mask"],
        output_names=["vectors"],
        dynamic_shapes=(shape, shape),
    )
    quantize_dynamic(
        folder / "f32.onnx",
        folder / "int8.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=not has_vnni(),  # else sums of products overflow
    )


def has_vnni() -> bool:
    """Return whether this CPU sums products of bytes in 32 bits."""
    facts = Path("/proc/cpuinfo")
    return "vnni" in facts.read_text() if facts.exists() else True


if __name__ == "__main__":
    main()
