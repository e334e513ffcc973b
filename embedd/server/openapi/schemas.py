"""JSON schemas of the types that decode bodies and render answers; structs by reference."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

Json: TypeAlias = dict[str, Any]

REFERENCE = "#/components/schemas/{name}"


class Schemas:
    """The schemas of *kinds*.

    Attributes:
        components: Schemas of all structs by their names in references.
    """

    def __init__(self, kinds: Iterable[Any]) -> None:
        # A list: annotated types with a schema of their own cannot be hashed.
        self._kinds: list[Any] = []
        for kind in kinds:
            if kind not in self._kinds:
                self._kinds.append(kind)
        schemas, components = msgspec.json.schema_components(self._kinds, ref_template=REFERENCE)
        self._schemas = schemas
        self.components: Json = components

    def any_of(self, kinds: Sequence[Any]) -> Json:
        """The schema of a value that is of one of *kinds*."""
        found: list[Json] = []
        for kind in kinds:
            schema = self._schemas[self._kinds.index(kind)]
            if schema not in found:
                found.append(schema)
        return found[0] if len(found) == 1 else {"anyOf": found}
