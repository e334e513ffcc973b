"""The command ``embedd bulk``: its options, what computes, and what is shown meanwhile."""
