"""The mixed operation, plain and fused."""
