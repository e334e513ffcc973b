"""The command ``embedd bulk``: its options, its servers, and what is shown meanwhile."""
