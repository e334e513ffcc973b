"""Variables that the library `tokenizers` reads when it is first used."""


def library_environment(threads: int) -> dict[str, str]:
    """Variables that limit the library to *threads*, to be set before it is imported.

    A panic in it writes one line to stderr instead of a backtrace.
    """
    return {
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        "RUST_BACKTRACE": "0",
    }
