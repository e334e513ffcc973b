"""The types that a converted checkpoint's weights can have."""

from enum import StrEnum


class WeightType(StrEnum):
    """Type of the large matrices; biases, norms and position embeddings stay f32."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"
